package storetest

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"testing"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/server/store"
)

// Fill makes a tenant with something of every kind.
func Fill(t testing.TB, s store.Store, tenant string) {
	ctx := t.Context()
	addTenant(t, s, tenant)
	addNode(t, s, tenant, "one", "01")
	addToken(t, s, tenant, "t1")
	get(s.PutPolicy(ctx, tenant, newPolicy("p1"), event("policy.put")))(t)
	must(t, s.PutAuthority(ctx, newAuthority(tenant, "key of "+tenant), event("authority.put")))
	must(t, s.CreateAPIToken(ctx, store.APIToken{ID: "api", Tenant: tenant, Role: store.Viewer, Hash: []byte("h" + tenant)}, event("token.create")))
	issue(t, s, addEntry(t, s, tenant, "e1"), "aa")
	issue(t, s, addEntry(t, s, tenant, "doomed"), "ab")
	must(t, s.DeleteEntry(ctx, tenant, "doomed", start, event("entry.delete")))
}

// testIsolation asks tenant b for tenant a's objects by every method: each is
// NotFound (or Denied, or an empty list), and nothing of a's changes.
func testIsolation(t *testing.T, open Opener) {
	s, ctx := open(t), t.Context()
	addTenant(t, s, "b")
	Fill(t, s, "a")
	n, k, e := newNode("a", "one", "01"), newToken("a", "t1"), get(s.Entry(ctx, "a", "e1"))(t)
	before := picture(t, s, "a")
	renewed := newNode("a", "one", "0f")
	renewed.Tenant = "b"
	asB := e
	asB.Tenant = "b"

	for name, err := range map[string]error{
		"UpdateEntry":     second(s.UpdateEntry(ctx, asB, 0, start, event("x"))),
		"DeleteEntry":     s.DeleteEntry(ctx, "b", "e1", start, event("x")),
		"Entry":           second(s.Entry(ctx, "b", "e1")),
		"DeletePolicy":    s.DeletePolicy(ctx, "b", "p1", event("x")),
		"DeleteJoinToken": s.DeleteJoinToken(ctx, "b", "t1", event("x")),
		"RenewNode":       s.RenewNode(ctx, renewed, "01", start, event("x")),
		"Node":            second(s.Node(ctx, "b", n.ID.String())),
		"TouchNode":       s.TouchNode(ctx, "b", n.ID.String(), n.Serial, start),
		"BanNode":         s.BanNode(ctx, "b", n.ID.String(), start, event("x")),
		"DeleteNode":      s.DeleteNode(ctx, "b", n.ID.String(), start, event("x")),
		"Issued":          second(s.Issued(ctx, "b", "aa")),
		"DeleteAPIToken":  s.DeleteAPIToken(ctx, "b", "api", event("x")),
	} {
		t.Run(name, func(t *testing.T) { refused(t, err, identity.NotFound) })
	}
	refused(t, s.AttestNode(ctx, renewed, k.Hash, start, event("x")), identity.Unauthenticated)
	_, errs, err := s.RecordIntents(ctx, "b", n.ID.String(), start, []store.Intent{newIntent(e, "0b", "")})
	must(t, err)
	refused(t, errs[0], identity.Denied)
	must(t, s.FinishIntents(ctx, "b", []string{"aa"}, false))
	equal(t, "Revoked", get(s.Revoked(ctx, "b", "ab"))(t), false)

	entries, next, err := s.Entries(ctx, "b", store.EntryFilter{})
	must(t, err)
	byParent, _, err := s.EntriesByParent(ctx, "b", e.ParentID.String())
	must(t, err)
	for name, found := range map[string]int{
		"Entries":         len(entries) + len(next),
		"EntriesByParent": len(byParent),
		"EntriesByID":     len(get(s.EntriesByID(ctx, "b", []string{"e1"}))(t)),
		"Policies":        len(get(s.Policies(ctx, "b"))(t).Policies),
		"JoinTokens":      len(get(s.JoinTokens(ctx, "b"))(t)),
		"Nodes":           len(get(s.Nodes(ctx, "b"))(t)),
		"Authorities":     len(get(s.Authorities(ctx, "b"))(t)),
		"IssuanceCount":   int(get(s.IssuanceCount(ctx, "b"))(t)),
		"Revocations":     len(get(s.Revocations(ctx, "b", start))(t)),
		"APITokens":       len(get(s.APITokens(ctx, "b"))(t)),
		"Changes":         len(get(s.Changes(ctx, "b", 1, 100))(t)),
		"Events":          len(get(s.Events(ctx, "b", 0, 100))(t)) - 1, // b's own
	} {
		t.Run(name, func(t *testing.T) { equal(t, "found", found, 0) })
	}
	if now := picture(t, s, "a"); !reflect.DeepEqual(now, before) {
		t.Fatalf("tenant a was changed:\n%+v; it was\n%+v", now, before)
	}
	for _, tenant := range []string{"", "@platform", "*", "%"} { // what might be read as all tenants
		for name, err := range map[string]error{
			"Entry":  second(s.Entry(ctx, tenant, "e1")),
			"Tenant": second(s.Tenant(ctx, tenant)),
			"Delete": s.DeleteEntry(ctx, tenant, "e1", start, event("x")),
		} {
			t.Run(fmt.Sprintf("%s of tenant %q", name, tenant), func(t *testing.T) { refused(t, err, identity.NotFound) })
		}
	}
}

// picture is everything of a tenant that the store can show.
func picture(t testing.TB, s store.Store, tenant string) []any {
	t.Helper()
	ctx := t.Context()
	entries, _, err := s.Entries(ctx, tenant, store.EntryFilter{Limit: 1000})
	must(t, err)
	var issued []store.Issuance
	for _, serial := range []string{"01", "aa", "ab"} {
		is, err := s.Issued(ctx, tenant, serial)
		if err == nil {
			issued = append(issued, is)
		}
	}
	return []any{get(s.Tenant(ctx, tenant))(t), entries, issued, get(s.Policies(ctx, tenant))(t), get(s.JoinTokens(ctx, tenant))(t),
		get(s.Nodes(ctx, tenant))(t), get(s.Authorities(ctx, tenant))(t), get(s.Revocations(ctx, tenant, start))(t),
		get(s.APITokens(ctx, tenant))(t), get(s.Changes(ctx, tenant, 0, 1000))(t), get(s.Events(ctx, tenant, 0, 1000))(t)}
}

// testManyWriters has two servers write the same rows at once while a reader
// follows: every answer is right, and the reader misses nothing.
func testManyWriters(t *testing.T, open Opener) {
	servers := []store.Store{open(t), open(t)}
	addTenant(t, servers[0], "a")
	addTenant(t, servers[0], "b")
	shared := addEntry(t, servers[0], "a", "shared")
	var all sync.WaitGroup
	for i := range 40 {
		s := servers[i%2]
		all.Go(func() {
			ctx, name := t.Context(), fmt.Sprintf("e%d", i/4) // four want the same entry
			tenant := []string{"a", "b"}[i%2]
			_, err := s.CreateEntry(ctx, newEntry(tenant, name), event("entry.create"))
			if code := identity.CodeOf(err); code != "" && code != identity.Conflict {
				t.Error(err)
			}
			_, err = s.UpdateEntry(ctx, shared, 0, start, event("entry.update"))
			if err != nil {
				t.Error(err)
			}
			err = s.DeleteEntry(ctx, tenant, name, start, event("entry.delete"))
			if code := identity.CodeOf(err); code != "" && code != identity.NotFound {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for _, tenant := range []string{"a", "b"} {
		checkHistory(t, servers[0], tenant)
		changes := get(servers[1].Changes(t.Context(), tenant, 0, 1000))(t)
		var created, deleted int
		for _, c := range changes {
			switch {
			case c.Kind != store.ChangeEntry || c.Object == "shared":
			case c.Deleted:
				deleted++
			default:
				created++
			}
		}
		entries, _, err := servers[1].Entries(t.Context(), tenant, store.EntryFilter{})
		must(t, err)
		left := len(slices.DeleteFunc(entryIDs(entries), func(id string) bool { return id == "shared" }))
		equal(t, "entries of "+tenant, left, created-deleted)
	}
}

// testReopen closes the store and opens it again: it is the same.
func testReopen(t *testing.T, open Opener) {
	s := open(t)
	Fill(t, s, "a")
	before := picture(t, s, "a")
	must(t, s.Close())
	s = open(t)
	if now := picture(t, s, "a"); !reflect.DeepEqual(now, before) {
		t.Fatalf("after reopening:\n%+v; it was\n%+v", now, before)
	}
	next := addEntry(t, s, "a", "e3")
	equal(t, "next revision", next.Revision, before[0].(store.Tenant).Cursor.Revision+1)
	checkHistory(t, s, "a")
}

func testClosed(t *testing.T, open Opener) {
	s, ctx := open(t), t.Context()
	addTenant(t, s, "a")
	must(t, s.Close())
	for name, err := range map[string]error{
		"write": s.UpdateSettings(ctx, "a", store.Settings{}, event("tenant.update")),
		"read":  second(s.Tenant(ctx, "a")),
		"ping":  s.Ping(ctx),
	} {
		var e *identity.Error
		if !errors.As(err, &e) || e.Code != identity.Unavailable {
			t.Errorf("%s after Close: %v; want code unavailable", name, err)
		}
	}
}
