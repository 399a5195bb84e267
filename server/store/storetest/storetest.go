// Package storetest holds the behaviour that every store.Store must show. It
// is the same suite for all, run against the real database.
package storetest

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/audit"
	"github.com/authsec-ai/icp/server/store"
)

// Opener opens a server on one database; a second call opens a second server
// on the same. The store is closed when the test ends, if not before. Its poll
// interval is an hour: what is seen is seen without polling.
type Opener func(tb testing.TB) store.Store

// Run checks the stores of the databases that fresh makes, each empty.
func Run(t *testing.T, fresh func(tb testing.TB) Opener) {
	for _, part := range []struct {
		name string
		test func(t *testing.T, open Opener)
	}{
		{"tenants", testTenants},
		{"changes", testChanges},
		{"wait", testWait},
		{"entries", testEntries},
		{"update entry", testUpdateEntry},
		{"narrowed entry", testNarrowedEntry},
		{"update race", testUpdateRace},
		{"list entries", testListEntries},
		{"T-52", testHostileListing},
		{"long names", testLongNames},
		{"policies", testPolicies},
		{"policy race", testPolicyRace},
		{"events", testEvents},
		{"API tokens", testAPITokens},
		{"join tokens", testJoinTokens},
		{"T-01", testTokenRace},
		{"T-02", testTokenExpiry},
		{"T-04", testAttestAtomic},
		{"attest node", testAttestNode},
		{"renew node", testRenewNode},
		{"remove node", testRemoveNode},
		{"TDB-01", testAuthorities},
		{"intents", testIntents},
		{"intent retries", testIntentRetries},
		{"retry race", testRetryRace},
		{"T-39", testIntentsAndDelete},
		{"T-40", testSerials},
		{"revocations", testRevocations},
		{"prune", testPrune},
		{"isolation", testIsolation},
		{"many writers", testManyWriters},
		{"reopen", testReopen},
		{"closed", testClosed},
	} {
		t.Run(part.name, func(t *testing.T) { part.test(t, fresh(t)) })
	}
}

// start is the time of the tests; the store never asks for another.
var start = time.Date(2030, 1, 2, 3, 4, 5, 6000, time.UTC)

const hour = time.Hour

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func get[T any](v T, err error) func(t testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		must(t, err)
		return v
	}
}

// refused fails the test unless err is an *identity.Error with the code.
func refused(t testing.TB, err error, code identity.Code) {
	t.Helper()
	var e *identity.Error
	if !errors.As(err, &e) || e.Code != code {
		t.Fatalf("error %v (code %q); want code %q", err, identity.CodeOf(err), code)
	}
}

// inTheWay fails the test unless err is a Conflict that names id.
func inTheWay(t testing.TB, err error, id string) {
	t.Helper()
	refused(t, err, identity.Conflict)
	var e *identity.Error
	if errors.As(err, &e); e.ID != id {
		t.Fatalf("the conflict names %q; want %q", e.ID, id)
	}
}

func equal[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Fatalf("%s: %v; want %v", what, got, want)
	}
}

func event(action string) audit.Event {
	return audit.Event{Time: start, Actor: "system", Action: action, Object: "x", Outcome: audit.Allowed}
}

// addTenant makes tenant id with trust domain <id>.example.
func addTenant(t testing.TB, s store.Store, id string) {
	t.Helper()
	must(t, s.CreateTenant(t.Context(), store.Tenant{ID: id, TrustDomain: id + ".example", CreatedAt: start}, nil, event("tenant.create")))
}

func cursor(t testing.TB, s store.Store, tenant string) store.Cursor {
	t.Helper()
	return get(s.Tenant(t.Context(), tenant))(t).Cursor
}

func id(tenant, path string) spiffeid.ID {
	return spiffeid.RequireFromString("spiffe://" + tenant + ".example" + path)
}

func agentID(tenant, name string) spiffeid.ID { return id(tenant, identity.AgentPath(name)) }

// newEntry is an entry of tenant's agent "one"; name is its ID and path.
func newEntry(tenant, name string) identity.Entry {
	return identity.Entry{ID: name, Tenant: tenant, CreatedAt: start, Spec: identity.Spec{
		SPIFFEID: id(tenant, "/"+name), ParentID: agentID(tenant, "one"),
		Selectors: identity.NewSelectors(identity.Selector{Type: "unix", Value: "uid:1000"}),
	}}
}

func addEntry(t testing.TB, s store.Store, tenant, name string) identity.Entry {
	t.Helper()
	return get(s.CreateEntry(t.Context(), newEntry(tenant, name), event("entry.create")))(t)
}

func newNode(tenant, name, serial string) identity.Node {
	return identity.Node{ID: agentID(tenant, name), Tenant: tenant, Method: "join_token", SPKI: []byte("key of " + name),
		Serial: serial, CreatedAt: start, ExpiresAt: start.Add(hour), LastSeen: start}
}

func addNode(t testing.TB, s store.Store, tenant, name, serial string) identity.Node {
	t.Helper()
	n := newNode(tenant, name, serial)
	must(t, s.AttestNode(t.Context(), n, nil, start, event("node.attest")))
	return n
}

func newIntent(e identity.Entry, serial, request string) store.Intent {
	return store.Intent{Kind: identity.X509, Serial: serial, RequestID: request, EntryID: e.ID, EntryRevision: e.Revision,
		SPIFFEID: e.SPIFFEID, Evidence: "digest", SPKI: []byte("key of " + serial), NotBefore: start, ExpiresAt: start.Add(hour)}
}

// record records one intent through agent "one" of the entry's tenant.
func record(t testing.TB, s store.Store, tenant string, in store.Intent) (store.Intent, error) {
	t.Helper()
	out, errs, err := s.RecordIntents(t.Context(), tenant, agentID(tenant, "one").String(), start, []store.Intent{in})
	must(t, err)
	return out[0], errs[0]
}

// issue records one intent and marks it issued.
func issue(t testing.TB, s store.Store, e identity.Entry, serial string) {
	t.Helper()
	_, err := record(t, s, e.Tenant, newIntent(e, serial, "request "+serial))
	must(t, err)
	must(t, s.FinishIntents(t.Context(), e.Tenant, []string{serial}, true))
}

func revokedSerials(t testing.TB, s store.Store, tenant string) []string {
	t.Helper()
	var serials []string
	for _, r := range get(s.Revocations(t.Context(), tenant, start))(t) {
		serials = append(serials, r.Serial)
	}
	return serials
}

func entryIDs(entries []identity.Entry) []string {
	var ids []string
	for _, e := range entries {
		ids = append(ids, e.ID)
	}
	return ids
}

func sameList(t testing.TB, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("%s: %q; want %q", what, got, want)
	}
}

// describe prints changes without their revisions.
func describe(changes []store.Change) []string {
	var out []string
	for _, c := range changes {
		line := c.Kind + " " + c.Object
		if c.Parent != "" {
			line += " of " + c.Parent
		}
		if c.Deleted {
			line += " deleted"
		}
		out = append(out, line)
	}
	return out
}

// after runs f and gives the changes that it made, which must be one revision.
func after(t testing.TB, s store.Store, tenant string, f func()) []string {
	t.Helper()
	before := cursor(t, s, tenant)
	f()
	now := cursor(t, s, tenant)
	equal(t, "epoch", now.Epoch, before.Epoch)
	equal(t, "revision", now.Revision, before.Revision+1)
	return describe(get(s.Changes(t.Context(), tenant, before.Revision, 100))(t))
}

// checkHistory fails the test unless a tenant's revisions and event numbers
// have neither gaps nor doubles and end at its cursor.
func checkHistory(t testing.TB, s store.Store, tenant string) {
	t.Helper()
	var last int64
	for _, c := range get(s.Changes(t.Context(), tenant, 0, 1<<20))(t) {
		if c.Revision != last && c.Revision != last+1 {
			t.Fatalf("revision %d follows %d", c.Revision, last)
		}
		last = c.Revision
	}
	equal(t, "newest revision", cursor(t, s, tenant).Revision, last)
	events := get(s.Events(t.Context(), tenant, 0, 1<<20))(t)
	for i, ev := range events {
		equal(t, "event number", ev.Seq, int64(len(events)-i))
	}
}

func serialOf(i int) string { return fmt.Sprintf("%032x", i+1) }
