package storetest

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/server/store"
)

func newAuthority(tenant, id string) store.Authority {
	return store.Authority{ID: id, Tenant: tenant, TrustDomain: tenant + ".example", Purpose: store.WorkloadAnchor, Certificate: []byte("certificate"),
		SPKI: []byte("public key " + id), WrappedKey: []byte("wrapped"), Issuer: "up", CreatedAt: start, ExpiresAt: start.Add(hour)}
}

func testAuthorities(t *testing.T, open Opener) {
	s, ctx := open(t), t.Context()
	addTenant(t, s, "a")
	addTenant(t, s, "b")
	old, jwt := newAuthority("a", "k1"), newAuthority("a", "k2")
	jwt.Purpose, jwt.Certificate, jwt.Issuer, jwt.CreatedAt = store.JWTKey, nil, "", start.Add(time.Second)
	sameList(t, "changes", after(t, s, "a", func() {
		must(t, s.PutAuthority(ctx, old, event("authority.put")))
	}), []string{"bundle k1"})
	t.Run("twin", func(t *testing.T) {
		must(t, s.PutAuthority(ctx, jwt, event("authority.put")))
		if got := get(s.Authorities(ctx, "a"))(t); !reflect.DeepEqual(got, []store.Authority{jwt, old}) {
			t.Fatalf("authorities %+v; want the newest first: %+v", got, []store.Authority{jwt, old})
		}
	})
	t.Run("refused", func(t *testing.T) {
		sameKey, otherTenant := old, old
		sameKey.ID = "k3"
		otherTenant.Tenant, otherTenant.TrustDomain, otherTenant.ID = "b", "b.example", "k3"
		foreignDomain := newAuthority("b", "k4")
		foreignDomain.TrustDomain = "a.example"
		for _, a := range []store.Authority{old, sameKey, otherTenant, foreignDomain} {
			refused(t, s.PutAuthority(ctx, a, event("authority.put")), identity.Conflict)
		}
		incomplete := newAuthority("a", "k5")
		incomplete.SPKI = nil
		refused(t, s.PutAuthority(ctx, incomplete, event("authority.put")), identity.Invalid)
		refused(t, s.PutAuthority(ctx, newAuthority("nobody", "k6"), event("authority.put")), identity.NotFound)
		equal(t, "authorities of b", len(get(s.Authorities(ctx, "b"))(t)), 0)
	})
	checkHistory(t, s, "a")
}

func testIntents(t *testing.T, open Opener) {
	s, ctx := open(t), t.Context()
	addTenant(t, s, "a")
	must(t, s.UpdateSettings(ctx, "a", store.Settings{AnyNode: true}, event("tenant.update")))
	one, two := addNode(t, s, "a", "one", "01"), addNode(t, s, "a", "two", "02")
	mine := addEntry(t, s, "a", "mine")
	theirs, any := newEntry("a", "theirs"), newEntry("a", "any")
	theirs.ParentID = two.ID
	any.ParentID = mine.ParentID
	theirs = get(s.CreateEntry(ctx, theirs, event("entry.create")))(t)
	any.ParentID = identity.Entry{}.ParentID
	any = get(s.CreateEntry(ctx, any, event("entry.create")))(t)

	stale, otherID, gone, incomplete, late := newIntent(mine, "f1", ""), newIntent(mine, "f2", ""), newIntent(mine, "f3", ""), newIntent(mine, "", ""), newIntent(mine, "f4", "")
	stale.EntryRevision--
	otherID.SPIFFEID = any.SPIFFEID
	gone.EntryID = "nothing"
	late.ExpiresAt = start
	good, free := newIntent(mine, "a1", "r1"), newIntent(any, "a2", "r2")
	jwt := newIntent(mine, "jti-1", "r3")
	jwt.Kind, jwt.SPKI = identity.JWT, nil
	cases := []struct {
		name string
		in   store.Intent
		code identity.Code
	}{
		{"mine", good, ""},
		{"another node's entry", newIntent(theirs, "f5", ""), identity.Denied},
		{"stale revision", stale, identity.Denied},
		{"another SPIFFE ID", otherID, identity.Denied},
		{"no such entry", gone, identity.Denied},
		{"no serial", incomplete, identity.Invalid},
		{"expired before it begins", late, identity.Invalid},
		{"serial twice in the call", newIntent(mine, "a1", ""), identity.Conflict},
		{"request twice in the call", newIntent(mine, "f6", "r1"), identity.Conflict},
		{"an agent's serial", newIntent(mine, "01", ""), identity.Conflict},
		{"any node's entry", free, ""},
		{"JWT", jwt, ""},
	}
	var items []store.Intent
	for _, c := range cases {
		items = append(items, c.in)
	}
	before := cursor(t, s, "a")
	out, errs, err := s.RecordIntents(ctx, "a", one.ID.String(), start, items)
	must(t, err)
	equal(t, "intents make no revision", cursor(t, s, "a"), before)
	for i, c := range cases {
		if identity.CodeOf(errs[i]) != c.code {
			t.Errorf("%s: error %v; want code %q", c.name, errs[i], c.code)
		}
		if c.code == "" && !reflect.DeepEqual(out[i], c.in) {
			t.Errorf("%s: %+v; want %+v", c.name, out[i], c.in)
		}
	}
	equal(t, "records", get(s.IssuanceCount(ctx, "a"))(t), 5) // with two agents
	want := store.Issuance{Intent: good, Tenant: "a", Node: one.ID.String(), State: "intent"}
	if got := get(s.Issued(ctx, "a", "a1"))(t); !reflect.DeepEqual(got, want) {
		t.Fatalf("record %+v; want %+v", got, want)
	}
	must(t, s.FinishIntents(ctx, "a", []string{"a1", "unknown"}, true))
	must(t, s.FinishIntents(ctx, "a", []string{"a2"}, false))
	must(t, s.FinishIntents(ctx, "a", nil, true))
	equal(t, "state", get(s.Issued(ctx, "a", "a1"))(t).State, "issued")
	equal(t, "state", get(s.Issued(ctx, "a", "a2"))(t).State, "abandoned")
	equal(t, "records that are not abandoned", get(s.IssuanceCount(ctx, "a"))(t), 4)
	refused(t, second(s.Issued(ctx, "a", "f1")), identity.NotFound)

	for name, ask := range map[string]func() error{
		"unknown node": func() error {
			_, errs, err := s.RecordIntents(ctx, "a", agentID("a", "three").String(), start, items[:1])
			return errors.Join(append(errs, err)...)
		},
		"no node": func() error {
			_, errs, err := s.RecordIntents(ctx, "a", "", start, []store.Intent{free})
			return errors.Join(append(errs, err)...)
		},
		"expired node": func() error {
			in := newIntent(mine, "f7", "")
			in.ExpiresAt = start.Add(9 * hour)
			_, errs, err := s.RecordIntents(ctx, "a", one.ID.String(), one.ExpiresAt, []store.Intent{in})
			return errors.Join(append(errs, err)...)
		},
	} {
		t.Run(name, func(t *testing.T) { refused(t, ask(), identity.Denied) })
	}
	testIntentBatch(t, s, mine)
}

// testIntentBatch records 500 at once.
func testIntentBatch(t *testing.T, s store.Store, e identity.Entry) {
	var items []store.Intent
	var serials []string
	for i := range 500 {
		items = append(items, newIntent(e, serialOf(i), fmt.Sprintf("batch %d", i)))
		serials = append(serials, serialOf(i))
	}
	before := get(s.IssuanceCount(t.Context(), "a"))(t)
	out, errs, err := s.RecordIntents(t.Context(), "a", agentID("a", "one").String(), start, items)
	must(t, errors.Join(append(errs, err)...))
	if !reflect.DeepEqual(out, items) {
		t.Fatal("the batch came back changed, or in another order")
	}
	must(t, s.FinishIntents(t.Context(), "a", serials, true))
	equal(t, "records more", get(s.IssuanceCount(t.Context(), "a"))(t)-before, 500)
}

func testIntentRetries(t *testing.T, open Opener) {
	s, ctx := open(t), t.Context()
	addTenant(t, s, "a")
	addNode(t, s, "a", "one", "01")
	two := addNode(t, s, "a", "two", "02")
	e, f := addEntry(t, s, "a", "e1"), addEntry(t, s, "a", "e2")
	first := newIntent(e, "a1", "r1")
	get(record(t, s, "a", first))(t)

	retry := newIntent(e, "a2", "r1")
	retry.SPKI = first.SPKI
	if got := get(record(t, s, "a", retry))(t); !reflect.DeepEqual(got, first) {
		t.Fatalf("retry: %+v; want the first one, %+v", got, first)
	}
	refused(t, second(s.Issued(ctx, "a", "a2")), identity.NotFound)
	must(t, s.FinishIntents(ctx, "a", []string{"a1"}, false))
	get(record(t, s, "a", retry))(t)
	equal(t, "state of an abandoned one that is retried", get(s.Issued(ctx, "a", "a1"))(t).State, "intent")

	otherKey, otherEntry, otherKind := retry, newIntent(f, "a3", "r1"), retry
	otherKey.SPKI = []byte("another key")
	otherEntry.SPKI = first.SPKI
	otherKind.Kind = identity.JWT
	for _, in := range []store.Intent{otherKey, otherEntry, otherKind} {
		_, err := record(t, s, "a", in)
		inTheWay(t, err, "a1")
	}
	sameSerial := newIntent(e, "a1", "r9")
	_, err := record(t, s, "a", sameSerial)
	inTheWay(t, err, "a1")
	mixed := []store.Intent{newIntent(e, "b1", "r2"), retry, newIntent(e, "a1", ""), newIntent(f, "b2", "")}
	out, errs, err := s.RecordIntents(ctx, "a", agentID("a", "one").String(), start, mixed)
	must(t, errors.Join(err, errs[0], errs[1], errs[3]))
	inTheWay(t, errs[2], "a1")
	equal(t, "a batch of new ones and a retry", out[0].Serial+out[1].Serial+out[3].Serial, "b1a1b2")
	for _, in := range []store.Intent{newIntent(e, "a4", ""), newIntent(e, "a5", "")} {
		equal(t, "without a request ID every one is new", get(record(t, s, "a", in))(t).Serial, in.Serial)
	}
	late := retry
	late.ExpiresAt = start.Add(9 * hour)
	must(t, s.RenewNode(ctx, func() identity.Node { n := newNode("a", "one", "03"); n.ExpiresAt = start.Add(9 * hour); return n }(), "01", start, event("node.renew")))
	_, errs, err = s.RecordIntents(ctx, "a", agentID("a", "one").String(), first.ExpiresAt, []store.Intent{late})
	must(t, err)
	inTheWay(t, errs[0], "a1") // it has expired

	e.ParentID = two.ID
	moved := get(s.UpdateEntry(ctx, e, 0, start, event("entry.update")))(t)
	_, err = record(t, s, "a", retry)
	refused(t, err, identity.Denied) // a retry is authorized like any other
	retry.EntryRevision = moved.Revision
	_, errs, err = s.RecordIntents(ctx, "a", two.ID.String(), start, []store.Intent{retry})
	must(t, errors.Join(append(errs, err)...)) // node two's own request of that name
	equal(t, "serial", get(s.Issued(ctx, "a", "a2"))(t).Node, two.ID.String())
}

// testRetryRace sends one request many times at once: one intent answers all.
func testRetryRace(t *testing.T, open Opener) {
	servers := []store.Store{open(t), open(t)}
	addTenant(t, servers[0], "a")
	node := addNode(t, servers[0], "a", "one", "01").ID.String()
	e := addEntry(t, servers[0], "a", "e1")
	serials := make(chan string, 20)
	var all sync.WaitGroup
	for i := range cap(serials) {
		all.Go(func() {
			in := newIntent(e, serialOf(i), "r1")
			in.SPKI = []byte("one key")
			out, errs, err := servers[i%2].RecordIntents(t.Context(), "a", node, start, []store.Intent{in})
			if err := errors.Join(append(errs, err)...); err != nil {
				t.Error(err)
				return
			}
			serials <- out[0].Serial
		})
	}
	all.Wait()
	close(serials)
	first := <-serials
	for serial := range serials {
		equal(t, "serial", serial, first)
	}
	equal(t, "records", get(servers[0].IssuanceCount(t.Context(), "a"))(t), 2) // with the agent
}

// testIntentsAndDelete deletes entries while they are signed for: each intent
// is Denied, or its serial is revoked. Then the same with a node that is banned.
func testIntentsAndDelete(t *testing.T, open Opener) {
	signer, admin := open(t), open(t)
	addTenant(t, signer, "a")
	n := addNode(t, signer, "a", "one", "01")
	const rounds, parallel = 20, 4
	for round := range rounds {
		e := addEntry(t, signer, "a", fmt.Sprintf("e%d", round))
		recorded, denied := race(t, signer, e, round*parallel, parallel, func() error {
			return admin.DeleteEntry(t.Context(), "a", e.ID, start, event("entry.delete"))
		})
		checkRevoked(t, signer, recorded)
		equal(t, "decided", len(recorded)+denied, parallel)
		_, err := record(t, signer, "a", newIntent(e, "ff", ""))
		refused(t, err, identity.Denied)
	}
	e := addEntry(t, signer, "a", "last")
	recorded, _ := race(t, signer, e, rounds*parallel, 50, func() error {
		return admin.BanNode(t.Context(), "a", n.ID.String(), start, event("node.ban"))
	})
	checkRevoked(t, signer, recorded)
	checkHistory(t, signer, "a")
}

// race records intents for e and runs withdraw amid them.
func race(t *testing.T, s store.Store, e identity.Entry, from, count int, withdraw func() error) (recorded []string, denied int) {
	var mu sync.Mutex
	var all sync.WaitGroup
	for i := range count {
		all.Go(func() {
			serial := serialOf(from + i)
			_, errs, err := s.RecordIntents(t.Context(), "a", agentID("a", "one").String(), start, []store.Intent{newIntent(e, serial, serial)})
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			switch identity.CodeOf(errs[0]) {
			case "":
				recorded = append(recorded, serial)
			case identity.Denied:
				denied++
			default:
				t.Error(errs[0])
			}
		})
		if i == count/2 {
			all.Go(func() {
				if err := withdraw(); err != nil {
					t.Error(err)
				}
			})
		}
	}
	all.Wait()
	return recorded, denied
}

func checkRevoked(t *testing.T, s store.Store, serials []string) {
	t.Helper()
	listed := revokedSerials(t, s, "a")
	for _, serial := range serials {
		if !slices.Contains(listed, serial) || !get(s.Revoked(t.Context(), "a", serial))(t) {
			t.Fatalf("serial %s was recorded and is not revoked", serial)
		}
	}
}

func testSerials(t *testing.T, open Opener) {
	s := open(t)
	for _, tenant := range []string{"a", "b"} {
		addTenant(t, s, tenant)
		addNode(t, s, tenant, "one", "01")
	}
	e, f := addEntry(t, s, "a", "e1"), addEntry(t, s, "b", "e1")
	get(record(t, s, "a", newIntent(e, "aa", "r1")))(t)
	t.Run("refused", func(t *testing.T) {
		_, err := record(t, s, "a", newIntent(e, "aa", "r2"))
		inTheWay(t, err, "aa")
		inTheWay(t, s.AttestNode(t.Context(), newNode("a", "two", "aa"), nil, start, event("node.attest")), "aa")
	})
	t.Run("twin", func(t *testing.T) {
		get(record(t, s, "a", newIntent(e, "ab", "r2")))(t)
		get(record(t, s, "b", newIntent(f, "aa", "r1")))(t) // another tenant's numbers are its own
	})
}

func testRevocations(t *testing.T, open Opener) {
	s, ctx := open(t), t.Context()
	addTenant(t, s, "a")
	addNode(t, s, "a", "one", "01")
	e, other := addEntry(t, s, "a", "e1"), addEntry(t, s, "a", "e2")
	issue(t, s, other, "b1")
	issue(t, s, e, "a1")
	jwt := newIntent(e, "jti", "r1")
	jwt.Kind, jwt.SPKI, jwt.ExpiresAt = identity.JWT, nil, start.Add(time.Minute)
	get(record(t, s, "a", jwt))(t)
	abandoned := newIntent(e, "a2", "r2") // its signer may have been only slow
	get(record(t, s, "a", abandoned))(t)
	must(t, s.FinishIntents(ctx, "a", []string{"a2"}, false))

	now := start.Add(30 * time.Second)
	sameList(t, "changes", after(t, s, "a", func() {
		must(t, s.DeleteEntry(ctx, "a", "e1", now, event("entry.delete")))
	}), []string{"entry e1 of spiffe://a.example/agent/one deleted", "revocation e1"})
	want := []identity.Revocation{
		{Kind: identity.X509, Serial: "a1", SPIFFEID: e.SPIFFEID.String(), ExpiresAt: start.Add(hour)},
		{Kind: identity.X509, Serial: "a2", SPIFFEID: e.SPIFFEID.String(), ExpiresAt: start.Add(hour)},
		{Kind: identity.JWT, Serial: "jti", SPIFFEID: e.SPIFFEID.String(), ExpiresAt: start.Add(time.Minute)},
	}
	if got := get(s.Revocations(ctx, "a", now))(t); !reflect.DeepEqual(got, want) {
		t.Fatalf("revocations %+v; want %+v", got, want)
	}
	equal(t, "revocations when the JWT has expired", len(get(s.Revocations(ctx, "a", start.Add(time.Minute)))(t)), 2)
	for serial, want := range map[string]bool{"a1": true, "b1": false, "01": false, "nothing": false} {
		equal(t, "revoked "+serial, get(s.Revoked(ctx, "a", serial))(t), want)
	}
	sameList(t, "changes when all has expired", after(t, s, "a", func() {
		must(t, s.DeleteEntry(ctx, "a", "e2", start.Add(2*hour), event("entry.delete")))
	}), []string{"entry e2 of spiffe://a.example/agent/one deleted"})
	equal(t, "revoked b1", get(s.Revoked(ctx, "a", "b1"))(t), false)
}

func testPrune(t *testing.T, open Opener) {
	s, ctx := open(t), t.Context()
	for _, tenant := range []string{"a", "b"} {
		addTenant(t, s, tenant)
		addNode(t, s, tenant, "one", "01")
		e := addEntry(t, s, tenant, "e1")
		short := newIntent(e, "a1", "r1")
		short.ExpiresAt = start.Add(time.Minute)
		get(record(t, s, tenant, short))(t)
		get(record(t, s, tenant, newIntent(e, "a2", "r2")))(t)
		must(t, s.DeleteEntry(ctx, tenant, "e1", start, event("entry.delete")))
		unused, kept := newToken(tenant, "unused"), newToken(tenant, "kept")
		unused.ExpiresAt = start.Add(time.Minute)
		must(t, s.CreateJoinToken(ctx, unused, event("token.create")))
		must(t, s.CreateJoinToken(ctx, kept, event("token.create")))
	}
	must(t, s.Prune(ctx, start.Add(time.Minute))) // nothing has expired before then
	equal(t, "revocations before", len(get(s.Revocations(ctx, "a", start))(t)), 2)
	equal(t, "join tokens before", len(get(s.JoinTokens(ctx, "a"))(t)), 2)
	must(t, s.Prune(ctx, start.Add(time.Minute+time.Millisecond)))
	for _, tenant := range []string{"a", "b"} {
		sameList(t, "revocations of "+tenant, revokedSerials(t, s, tenant), []string{"a2"})
		refused(t, second(s.Issued(ctx, tenant, "a1")), identity.NotFound)
		get(s.Issued(ctx, tenant, "a2"))(t)
		if tokens := get(s.JoinTokens(ctx, tenant))(t); len(tokens) != 1 || tokens[0].ID != "kept" {
			t.Errorf("join tokens of %s: %+v; want the one that has not expired", tenant, tokens)
		}
	}
}
