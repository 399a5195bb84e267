package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/audit"
	"github.com/authsec-ai/icp/policy"
	"github.com/authsec-ai/icp/server/store"
)

func testTenants(t *testing.T, open Opener) {
	s, ctx := open(t), t.Context()
	must(t, s.Ping(ctx))
	settings := store.Settings{TTL: identity.Duration(hour), RenewAt: 0.5, AnyNode: true}
	a := store.Tenant{ID: "a", TrustDomain: "a.example", Settings: settings, CreatedAt: start}
	key := newAuthority("a", "k1")
	must(t, s.CreateTenant(ctx, a, []store.Authority{key}, event("tenant.create")))

	got := get(s.Tenant(ctx, "a"))(t)
	if got.Cursor.Epoch == "" || got.Cursor.Revision != 1 {
		t.Fatalf("cursor %v; want an epoch and revision 1", got.Cursor)
	}
	a.Cursor = got.Cursor
	equal(t, "tenant", got, a)
	equal(t, "tenant by trust domain", get(s.TenantByTrustDomain(ctx, "a.example"))(t), a)
	sameList(t, "changes", describe(get(s.Changes(ctx, "a", 0, 10))(t)), []string{"tenant a", "bundle a.example"})
	if all := get(s.Authorities(ctx, "a"))(t); len(all) != 1 || !reflect.DeepEqual(all[0], key) {
		t.Fatalf("authorities %+v; want %+v", all, key)
	}

	_, err := s.Tenant(ctx, "b")
	refused(t, err, identity.NotFound)
	_, err = s.TenantByTrustDomain(ctx, "b.example")
	refused(t, err, identity.NotFound)
	refused(t, s.CreateTenant(ctx, store.Tenant{TrustDomain: "b.example"}, nil, event("tenant.create")), identity.Invalid)
	refused(t, s.CreateTenant(ctx, store.Tenant{ID: "b"}, nil, event("tenant.create")), identity.Invalid)
	inTheWay(t, s.CreateTenant(ctx, store.Tenant{ID: "a", TrustDomain: "b.example"}, nil, event("tenant.create")), "a")
	inTheWay(t, s.CreateTenant(ctx, store.Tenant{ID: "b", TrustDomain: "a.example"}, nil, event("tenant.create")), "")
	foreign := newAuthority("b", "k1") // the same key
	inTheWay(t, s.CreateTenant(ctx, store.Tenant{ID: "b", TrustDomain: "b.example"}, []store.Authority{foreign}, event("tenant.create")), "k1")
	_, err = s.Tenant(ctx, "b")
	refused(t, err, identity.NotFound) // nothing of the refused ones stays
	addTenant(t, s, "b")
	all := get(s.Tenants(ctx))(t)
	if len(all) != 2 || all[0].ID != "a" || all[1].ID != "b" || all[0].Cursor.Epoch == all[1].Cursor.Epoch {
		t.Fatalf("tenants %+v; want a and b with epochs of their own", all)
	}

	settings.MaxTTL = identity.Duration(2 * hour)
	sameList(t, "changes", after(t, s, "a", func() {
		must(t, s.UpdateSettings(ctx, "a", settings, event("tenant.update")))
	}), []string{"tenant a"})
	equal(t, "settings", get(s.Tenant(ctx, "a"))(t).Settings, settings)
	refused(t, s.UpdateSettings(ctx, "c", settings, event("tenant.update")), identity.NotFound)
	checkHistory(t, s, "a")
}

func testChanges(t *testing.T, open Opener) {
	s, ctx := open(t), t.Context()
	addTenant(t, s, "a") // revision 1, two changes
	addEntry(t, s, "a", "e1")
	addEntry(t, s, "a", "e2")
	for after, want := range [][]int64{{1, 1, 2, 3}, {2, 3}, {3}, nil, nil} {
		equal(t, fmt.Sprintf("revisions after %d", after), fmt.Sprint(revisions(t, s, int64(after), 10)), fmt.Sprint(want))
	}
	equal(t, "a page never splits a revision", fmt.Sprint(revisions(t, s, 0, 1)), "[1 1]")
	equal(t, "page of 2", fmt.Sprint(revisions(t, s, 0, 2)), "[1 1]")
	equal(t, "page of 3", fmt.Sprint(revisions(t, s, 0, 3)), "[1 1 2]")
	if changes := get(s.Changes(ctx, "nobody", 0, 10))(t); len(changes) != 0 {
		t.Fatalf("changes of no tenant: %v", changes)
	}
}

func revisions(t testing.TB, s store.Store, after int64, limit int) []int64 {
	t.Helper()
	var out []int64
	for _, c := range get(s.Changes(t.Context(), "a", after, limit))(t) {
		out = append(out, c.Revision)
	}
	return out
}

func testWait(t *testing.T, open Opener) {
	s, ctx := open(t), t.Context()
	addTenant(t, s, "a")
	addTenant(t, s, "b")
	now := cursor(t, s, "a")

	equal(t, "cursor when behind", get(s.Wait(ctx, "a", store.Cursor{Epoch: now.Epoch}))(t), now)
	equal(t, "cursor in another epoch", get(s.Wait(ctx, "a", store.Cursor{Epoch: "other", Revision: 99}))(t), now)
	_, err := s.Wait(ctx, "nobody", store.Cursor{})
	refused(t, err, identity.NotFound)

	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := s.Wait(ended, "a", now); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v; want the context's", err)
	}

	const waiters = 20
	woken := make(chan store.Cursor, waiters)
	for range waiters {
		go func() {
			c, err := s.Wait(ctx, "a", now)
			if err != nil {
				t.Error(err)
			}
			woken <- c
		}()
	}
	addEntry(t, s, "b", "e1") // wakes nobody
	addEntry(t, s, "a", "e1")
	for range waiters {
		equal(t, "cursor after a change", <-woken, store.Cursor{Epoch: now.Epoch, Revision: now.Revision + 1})
	}
}

func testEntries(t *testing.T, open Opener) {
	s, ctx := open(t), t.Context()
	addTenant(t, s, "a")
	want := newEntry("a", "e1")
	want.Spec = identity.Spec{SPIFFEID: want.SPIFFEID, ParentID: want.ParentID,
		Selectors: identity.NewSelectors(identity.Selector{Type: "unix", Value: "path:/bin/x=y:z"}, identity.Selector{Type: "k8s", Value: "pod-label:app:web"}),
		TTL:       identity.Duration(hour), JWTTTL: identity.Duration(time.Minute), RenewAt: 0.9, Profile: "ai-agent", Hint: "a \x00 hint",
		DNSNames: []string{"a.test"}, Gateway: []string{"llm"}}
	var created identity.Entry
	sameList(t, "changes", after(t, s, "a", func() {
		created = get(s.CreateEntry(ctx, want, event("entry.create")))(t)
	}), []string{"entry e1 of spiffe://a.example/agent/one"})
	want.Revision = 2
	for how, got := range map[string]identity.Entry{"created": created, "read": get(s.Entry(ctx, "a", "e1"))(t)} {
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%s:\n%+v; want\n%+v", how, got, want)
		}
	}

	twin := want
	twin.ID, twin.TTL = "e2", 0
	_, err := s.CreateEntry(ctx, twin, event("entry.create"))
	inTheWay(t, err, "e1")
	sameID := newEntry("a", "other")
	sameID.ID = "e1"
	_, err = s.CreateEntry(ctx, sameID, event("entry.create"))
	inTheWay(t, err, "e1")
	refused(t, second(s.CreateEntry(ctx, newEntry("nobody", "e1"), event("entry.create"))), identity.NotFound)
	refused(t, second(s.CreateEntry(ctx, identity.Entry{ID: "e3", Tenant: "a"}, event("entry.create"))), identity.Invalid)
	refused(t, second(s.CreateEntry(ctx, identity.Entry{Tenant: "a", Spec: want.Spec}, event("entry.create"))), identity.Invalid)
	equal(t, "revision after refusals", cursor(t, s, "a").Revision, 2)

	other := newEntry("a", "e2")
	other.ParentID = agentID("a", "two")
	other.CreatedAt = start.Add(-hour)
	get(s.CreateEntry(ctx, other, event("entry.create")))(t)
	older := newEntry("a", "e3")
	older.CreatedAt = start.Add(-hour)
	get(s.CreateEntry(ctx, older, event("entry.create")))(t)

	mine, at, err := s.EntriesByParent(ctx, "a", agentID("a", "one").String())
	must(t, err)
	sameList(t, "entries of a parent, oldest first", entryIDs(mine), []string{"e3", "e1"})
	equal(t, "their cursor", at, cursor(t, s, "a"))
	_, _, err = s.EntriesByParent(ctx, "nobody", agentID("a", "one").String())
	refused(t, err, identity.NotFound)
	equal(t, "entries by ID", len(get(s.EntriesByID(ctx, "a", []string{"e1", "e2", "nothing"}))(t)), 2)
	equal(t, "entries by no ID", len(get(s.EntriesByID(ctx, "a", nil))(t)), 0)

	sameList(t, "changes", after(t, s, "a", func() {
		must(t, s.DeleteEntry(ctx, "a", "e1", start, event("entry.delete")))
	}), []string{"entry e1 of spiffe://a.example/agent/one deleted"})
	refused(t, second(s.Entry(ctx, "a", "e1")), identity.NotFound)
	refused(t, s.DeleteEntry(ctx, "a", "e1", start, event("entry.delete")), identity.NotFound)
	twin.ID = "e4"
	get(s.CreateEntry(ctx, twin, event("entry.create")))(t) // nothing is in the way any more
}

func second[T any](_ T, err error) error { return err }

func testUpdateEntry(t *testing.T, open Opener) {
	s, ctx := open(t), t.Context()
	addTenant(t, s, "a")
	e := addEntry(t, s, "a", "e1")
	addEntry(t, s, "a", "e2")

	e.TTL = identity.Duration(time.Minute)
	var updated identity.Entry
	sameList(t, "changes", after(t, s, "a", func() {
		updated = get(s.UpdateEntry(ctx, identity.Entry{ID: "e1", Tenant: "a", Spec: e.Spec}, e.Revision, start, event("entry.update")))(t)
	}), []string{"entry e1 of spiffe://a.example/agent/one"})
	e.Revision = 4
	if read := get(s.Entry(ctx, "a", "e1"))(t); !reflect.DeepEqual(updated, e) || !reflect.DeepEqual(read, e) {
		t.Fatalf("updated %+v, read %+v; want %+v", updated, read, e)
	}

	_, err := s.UpdateEntry(ctx, e, e.Revision-1, start, event("entry.update"))
	inTheWay(t, err, "e1")
	twin := newEntry("a", "e2")
	twin.ID = "e1"
	_, err = s.UpdateEntry(ctx, twin, 0, start, event("entry.update"))
	inTheWay(t, err, "e2")
	refused(t, second(s.UpdateEntry(ctx, newEntry("a", "nothing"), 0, start, event("entry.update"))), identity.NotFound)
	refused(t, second(s.UpdateEntry(ctx, identity.Entry{ID: "e1", Tenant: "a"}, 0, start, event("entry.update"))), identity.Invalid)

	e.ParentID = agentID("a", "two")
	sameList(t, "changes of a move", after(t, s, "a", func() {
		get(s.UpdateEntry(ctx, e, 0, start, event("entry.update")))(t)
	}), []string{"entry e1 of spiffe://a.example/agent/one deleted", "entry e1 of spiffe://a.example/agent/two"})
	mine, _, err := s.EntriesByParent(ctx, "a", agentID("a", "two").String())
	must(t, err)
	sameList(t, "entries of the new parent", entryIDs(mine), []string{"e1"})

	e.Selectors = identity.NewSelectors(identity.Selector{Type: "unix", Value: "uid:7"})
	get(s.UpdateEntry(ctx, e, 0, start, event("entry.update")))(t)
	for selector, want := range map[string][]string{"unix:uid:7": {"e1"}, "unix:uid:1000": {"e2"}} {
		found, _, err := s.Entries(ctx, "a", store.EntryFilter{Selector: selector})
		must(t, err)
		sameList(t, "entries with "+selector, entryIDs(found), want)
	}
	checkHistory(t, s, "a")
}

// testNarrowedEntry withdraws with an update what the entry granted: what was
// issued under the old Spec is revoked with it. The twins withdraw nothing.
func testNarrowedEntry(t *testing.T, open Opener) {
	s, ctx := open(t), t.Context()
	addTenant(t, s, "a")
	addNode(t, s, "a", "one", "01")
	for i, c := range []struct {
		name    string
		change  func(*identity.Spec)
		revokes bool
	}{
		{"another SPIFFE ID", func(s *identity.Spec) { s.SPIFFEID = id("a", "/other") }, true},
		{"a selector more", func(s *identity.Spec) { s.Selectors = append(s.Selectors, unix("path:/bin/x")) }, true},
		{"another selector", func(s *identity.Spec) { s.Selectors = identity.Selectors{unix("uid:7")} }, true},
		{"another parent", func(s *identity.Spec) { s.ParentID = agentID("a", "two") }, true},
		{"a DNS name less", func(s *identity.Spec) { s.DNSNames = s.DNSNames[:1] }, true},
		{"twin: a selector less", func(s *identity.Spec) { s.Selectors = s.Selectors[:1] }, false},
		{"twin: any parent", func(s *identity.Spec) { s.ParentID = spiffeid.ID{} }, false},
		{"twin: a DNS name more", func(s *identity.Spec) { s.DNSNames = append(s.DNSNames, "c.test") }, false},
		{"twin: another lifetime", func(s *identity.Spec) { s.TTL = identity.Duration(time.Minute) }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := newEntry("a", fmt.Sprintf("e%d", i))
			e.Selectors = identity.NewSelectors(unix("gid:1"), unix("uid:1000"))
			e.DNSNames = []string{"a.test", "b.test"}
			e = get(s.CreateEntry(ctx, e, event("entry.create")))(t)
			serial := serialOf(i)
			issue(t, s, e, serial)
			c.change(&e.Spec)
			changes := after(t, s, "a", func() {
				get(s.UpdateEntry(ctx, e, 0, start, event("entry.update")))(t)
			})
			equal(t, "revoked", get(s.Revoked(ctx, "a", serial))(t), c.revokes)
			equal(t, "a change that wakes gateways", slices.Contains(changes, "revocation "+e.ID), c.revokes)
		})
	}
}

func unix(value string) identity.Selector { return identity.Selector{Type: "unix", Value: value} }

// testUpdateRace has many writers update one entry from the same revision: one wins.
func testUpdateRace(t *testing.T, open Opener) {
	servers := []store.Store{open(t), open(t)}
	addTenant(t, servers[0], "a")
	e := addEntry(t, servers[0], "a", "e1")
	for range 5 {
		updated := make(chan identity.Entry, 20)
		var all sync.WaitGroup
		for i := range cap(updated) {
			all.Go(func() {
				mine := e
				mine.TTL = identity.Duration(time.Duration(i+1) * time.Second)
				got, err := servers[i%2].UpdateEntry(t.Context(), mine, e.Revision, start, event("entry.update"))
				switch identity.CodeOf(err) {
				case "":
					updated <- got
				case identity.Conflict:
				default:
					t.Error(err)
				}
			})
		}
		all.Wait()
		equal(t, "winners", len(updated), 1)
		e = <-updated
		if now := get(servers[1].Entry(t.Context(), "a", "e1"))(t); !reflect.DeepEqual(now, e) {
			t.Fatalf("entry %+v; want the winner's, %+v", now, e)
		}
	}
}

func testListEntries(t *testing.T, open Opener) {
	s, ctx := open(t), t.Context()
	addTenant(t, s, "a")
	var want []string
	for i := range 25 {
		e := newEntry("a", fmt.Sprintf("e%02d", i))
		e.CreatedAt = start.Add(time.Duration(i/10) * time.Second) // many of one age
		get(s.CreateEntry(ctx, e, event("entry.create")))(t)
		want = append(want, e.ID)
	}
	for _, limit := range []int{1, 7, 24, 25, 26, 0} {
		sameList(t, fmt.Sprintf("pages of %d", limit), allPages(t, s, store.EntryFilter{Limit: limit}), want)
	}
	sameList(t, "pages of a search", allPages(t, s, store.EntryFilter{Limit: 3, Search: "/e1"}), want[10:20])
	_, next, err := s.Entries(ctx, "a", store.EntryFilter{Limit: 25})
	must(t, err)
	equal(t, "token after the last page", next, "")
	for _, limit := range []int{-1, 1001} {
		_, _, err := s.Entries(ctx, "a", store.EntryFilter{Limit: limit})
		refused(t, err, identity.Invalid)
	}
	for name, c := range map[string]struct {
		filter store.EntryFilter
		want   []string
	}{
		"SPIFFE ID":  {store.EntryFilter{SPIFFEID: id("a", "/e03").String()}, want[3:4]},
		"parent":     {store.EntryFilter{ParentID: agentID("a", "one").String()}, want},
		"no parent":  {store.EntryFilter{ParentID: agentID("a", "two").String()}, nil},
		"selector":   {store.EntryFilter{Selector: "unix:uid:1000"}, want},
		"a selector": {store.EntryFilter{Selector: "unix:uid:100"}, nil},
		"all":        {store.EntryFilter{Selector: "unix:uid:1000", ParentID: agentID("a", "one").String(), Search: "e2"}, want[20:]},
	} {
		sameList(t, name, allPages(t, s, c.filter), c.want)
	}
}

func allPages(t testing.TB, s store.Store, f store.EntryFilter) []string {
	t.Helper()
	var ids []string
	for range 100 {
		page, next, err := s.Entries(t.Context(), "a", f)
		must(t, err)
		ids = append(ids, entryIDs(page)...)
		if next == "" {
			return ids
		}
		f.After = next
	}
	t.Fatal("the pages do not end")
	return nil
}

// testHostileListing gives listings what an attacker would: it is data, never
// part of a statement or pattern, and a token that is not ours is refused.
func testHostileListing(t *testing.T, open Opener) {
	s, ctx := open(t), t.Context()
	addTenant(t, s, "a")
	addEntry(t, s, "a", "e1")
	under := newEntry("a", "e2")
	under.SPIFFEID = id("a", "/under_score")
	get(s.CreateEntry(ctx, under, event("entry.create")))(t)
	t.Run("twin", func(t *testing.T) {
		sameList(t, "search", allPages(t, s, store.EntryFilter{Search: "under_s"}), []string{"e2"})
		_, next, err := s.Entries(ctx, "a", store.EntryFilter{Limit: 1})
		must(t, err)
		sameList(t, "next page", allPages(t, s, store.EntryFilter{After: next}), []string{"e2"})
	})
	t.Run("refused", func(t *testing.T) {
		for _, text := range []string{"%", "_1", "e_", "' OR '1'='1", `\`, "$1", "?1", "E1", "e1';--", "*"} {
			for _, f := range []store.EntryFilter{{Search: text}, {SPIFFEID: text}, {ParentID: text}, {Selector: text}} {
				sameList(t, fmt.Sprintf("%+v", f), allPages(t, s, f), nil)
			}
		}
		for _, token := range []string{"x", "!!", "AAAAAAAAAAA", "2147483648", "99999999999999999999", "' OR 1=1",
			strings.Repeat("A", 500), "AAAAAAAAAABlMQ=="} {
			_, _, err := s.Entries(ctx, "a", store.EntryFilter{After: token})
			refused(t, err, identity.Invalid)
		}
	})
}

// testLongNames stores the longest names allowed, which no index may choke on.
func testLongNames(t *testing.T, open Opener) {
	s, ctx := open(t), t.Context()
	tenant := strings.Repeat("t", 255)
	must(t, s.CreateTenant(ctx, store.Tenant{ID: tenant, TrustDomain: "a.example"}, nil, event("tenant.create")))
	long := func(seed int) spiffeid.ID {
		text := "spiffe://a.example/"
		for len(text) < identity.MaxIDBytes { // hardly compressible
			seed = seed*1103515245 + 12345
			text += fmt.Sprintf("%08x", uint32(seed>>16)^uint32(seed))
		}
		return spiffeid.RequireFromString(text[:identity.MaxIDBytes])
	}
	e := newEntry(tenant, strings.Repeat("i", 128))
	e.SPIFFEID, e.ParentID = long(1), long(2)
	e.Selectors = nil
	for i := range 50 {
		e.Selectors = append(e.Selectors, identity.Selector{Type: "unix", Value: "path:" + long(3 + i).Path()[:1000]})
	}
	created := get(s.CreateEntry(ctx, e, event("entry.create")))(t)
	found, _, err := s.Entries(ctx, tenant, store.EntryFilter{SPIFFEID: e.SPIFFEID.String(), ParentID: e.ParentID.String(), Selector: e.Selectors[49].String()})
	must(t, err)
	if len(found) != 1 || !reflect.DeepEqual(found[0], created) {
		t.Fatalf("found %d entries; want the one with the long names", len(found))
	}
	_, err = s.CreateEntry(ctx, identity.Entry{ID: strings.Repeat("i", 129), Tenant: tenant, Spec: e.Spec}, event("entry.create"))
	refused(t, err, identity.Invalid)
	n := newNode("a", "one", "01")
	n.Tenant, n.ID = tenant, long(4)
	must(t, s.AttestNode(ctx, n, nil, start, event("node.attest")))
	e.ID, e.ParentID = "under a long node", n.ID
	under := get(s.CreateEntry(ctx, e, event("entry.create")))(t)
	in := newIntent(under, "02", strings.Repeat("r", 128))
	_, errs, err := s.RecordIntents(ctx, tenant, n.ID.String(), start, []store.Intent{in})
	must(t, errors.Join(append(errs, err)...))
}

func newPolicy(name string) policy.Policy {
	return policy.Policy{Name: name, Effect: policy.Allow, Subjects: []string{"spiffe://a.example/**"}, Service: "llm",
		Methods: []string{"POST"}, Paths: []string{"/v1/**"}, Limits: &policy.Limits{RequestsPerMinute: 6}}
}

func testPolicies(t *testing.T, open Opener) {
	s, ctx := open(t), t.Context()
	addTenant(t, s, "a")
	empty := get(s.Policies(ctx, "a"))(t)
	equal(t, "policies at first", len(empty.Policies), 0)
	for _, name := range []string{"b", "B", "a"} {
		sameList(t, "changes", after(t, s, "a", func() {
			equal(t, "created", get(s.PutPolicy(ctx, "a", newPolicy(name), event("policy.put")))(t), true)
		}), []string{"policy " + name})
	}
	changed := newPolicy("b")
	changed.Effect = policy.Deny
	equal(t, "created again", get(s.PutPolicy(ctx, "a", changed, event("policy.put")))(t), false)
	c := cursor(t, s, "a")
	want := policy.Set{Epoch: c.Epoch, Revision: c.Revision, Policies: []policy.Policy{newPolicy("B"), newPolicy("a"), changed}}
	if got := get(s.Policies(ctx, "a"))(t); !reflect.DeepEqual(got, want) {
		t.Fatalf("policies %+v; want %+v", got, want)
	}
	sameList(t, "changes", after(t, s, "a", func() {
		must(t, s.DeletePolicy(ctx, "a", "B", event("policy.delete")))
	}), []string{"policy B deleted"})
	equal(t, "policies left", len(get(s.Policies(ctx, "a"))(t).Policies), 2)

	refused(t, s.DeletePolicy(ctx, "a", "B", event("policy.delete")), identity.NotFound)
	refused(t, second(s.PutPolicy(ctx, "a", policy.Policy{}, event("policy.put"))), identity.Invalid)
	refused(t, second(s.PutPolicy(ctx, "nobody", newPolicy("x"), event("policy.put"))), identity.NotFound)
	refused(t, second(s.Policies(ctx, "nobody")), identity.NotFound)
}

// testPolicyRace has many writers create one policy: one wins, and the others
// neither replace it nor leave an event that says so.
func testPolicyRace(t *testing.T, open Opener) {
	servers := []store.Store{open(t), open(t)}
	addTenant(t, servers[0], "a")
	var winners atomic.Int64
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			err := servers[i%2].CreatePolicy(t.Context(), "a", newPolicy("p"), event("policy.put"))
			switch identity.CodeOf(err) {
			case "":
				winners.Add(1)
			case identity.Conflict:
			default:
				t.Error(err)
			}
		})
	}
	all.Wait()
	equal(t, "winners", winners.Load(), 1)
	equal(t, "events", len(get(servers[1].Events(t.Context(), "a", 0, 100))(t)), 2) // with the tenant's
	inTheWay(t, servers[1].CreatePolicy(t.Context(), "a", newPolicy("p"), event("policy.put")), "p")
}

func testEvents(t *testing.T, open Opener) {
	s, ctx := open(t), t.Context()
	addTenant(t, s, "a")
	addTenant(t, s, "b")
	want := audit.Event{Time: start, Tenant: "a", Actor: "token:1", Action: "entry.create", Object: "hostile \x00 text", Outcome: audit.Denied,
		Reason: "why", RequestID: "r", Before: json.RawMessage(`{"a":1}`), After: json.RawMessage(`{"a": "é"}`)}
	before := cursor(t, s, "a")
	must(t, s.RecordEvent(ctx, want))
	equal(t, "an event alone makes no revision", cursor(t, s, "a"), before)
	want.Seq, want.Object = 2, "hostile \uFFFD text"
	if got := get(s.Events(ctx, "a", 0, 1))(t); len(got) != 1 || !reflect.DeepEqual(got[0], want) {
		t.Fatalf("events %+v; want %+v", got, want)
	}

	addEntry(t, s, "a", "e1")
	_, err := s.CreateEntry(ctx, newEntry("a", "e1"), event("entry.create"))
	refused(t, err, identity.Conflict) // leaves no event
	all := get(s.Events(ctx, "a", 0, 10))(t)
	equal(t, "events of a", len(all), 3)
	for i, ev := range all {
		equal(t, "newest first", ev.Seq, int64(3-i))
		equal(t, "tenant", ev.Tenant, "a")
	}
	if page := get(s.Events(ctx, "a", 3, 1))(t); len(page) != 1 || page[0].Seq != 2 {
		t.Fatalf("events before 3: %+v; want number 2", page)
	}
	equal(t, "events of b", len(get(s.Events(ctx, "b", 0, 10))(t)), 1)
	refused(t, s.RecordEvent(ctx, audit.Event{Tenant: "nobody"}), identity.NotFound)

	must(t, s.RecordEvent(ctx, audit.Event{Action: "platform"}))
	if got := get(s.Events(ctx, "", 0, 10))(t); len(got) != 1 || got[0].Action != "platform" || got[0].Tenant != "" {
		t.Fatalf("events of the platform: %+v; want one, without a tenant", got)
	}
}

func testAPITokens(t *testing.T, open Opener) {
	s, ctx := open(t), t.Context()
	addTenant(t, s, "a")
	want := store.APIToken{ID: "k1", Tenant: "a", Role: store.Viewer, Name: "n", Hash: []byte("hash 1"), ExpiresAt: start.Add(hour), CreatedAt: start}
	root := store.APIToken{ID: "k1", Role: store.PlatformAdmin, Hash: []byte("hash 2"), CreatedAt: start}
	for _, k := range []store.APIToken{want, root} {
		must(t, s.CreateAPIToken(ctx, k, event("token.create")))
		if got := get(s.APITokenByHash(ctx, k.Hash))(t); !reflect.DeepEqual(got, k) {
			t.Fatalf("token %+v; want %+v", got, k)
		}
		if got := get(s.APITokens(ctx, k.Tenant))(t); len(got) != 1 || !reflect.DeepEqual(got[0], k) {
			t.Fatalf("tokens of %q: %+v; want %+v", k.Tenant, got, k)
		}
	}
	equal(t, "no revision", cursor(t, s, "a").Revision, 1)
	refused(t, second(s.APITokenByHash(ctx, []byte("hash 3"))), identity.NotFound)
	refused(t, second(s.APITokenByHash(ctx, nil)), identity.NotFound)
	inTheWay(t, s.CreateAPIToken(ctx, want, event("token.create")), "k1")
	want.ID = "k2"
	refused(t, s.CreateAPIToken(ctx, want, event("token.create")), identity.Conflict) // the same secret
	for _, bad := range []store.APIToken{
		{ID: "x", Hash: []byte("x"), Role: store.TenantAdmin},
		{ID: "x", Hash: []byte("x"), Role: store.PlatformAdmin, Tenant: "a"},
		{ID: "x", Role: store.Viewer, Tenant: "a"},
		{Hash: []byte("x"), Role: store.Viewer, Tenant: "a"},
	} {
		refused(t, s.CreateAPIToken(ctx, bad, event("token.create")), identity.Invalid)
	}
	refused(t, s.CreateAPIToken(ctx, store.APIToken{ID: "x", Hash: []byte("x"), Role: store.Viewer, Tenant: "nobody"}, event("token.create")), identity.NotFound)

	must(t, s.DeleteAPIToken(ctx, "a", "k1", event("token.delete")))
	refused(t, s.DeleteAPIToken(ctx, "a", "k1", event("token.delete")), identity.NotFound)
	refused(t, second(s.APITokenByHash(ctx, []byte("hash 1"))), identity.NotFound)
	get(s.APITokenByHash(ctx, []byte("hash 2")))(t)
	must(t, s.DeleteAPIToken(ctx, "", "k1", event("token.delete")))
}
