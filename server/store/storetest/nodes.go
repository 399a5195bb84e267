package storetest

import (
	"crypto/sha256"
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/server/store"
)

func hashOf(secret string) []byte {
	sum := sha256.Sum256([]byte(secret))
	return sum[:]
}

func newToken(tenant, id string) store.JoinToken {
	return store.JoinToken{ID: id, Tenant: tenant, Hash: hashOf(tenant + id), ExpiresAt: start.Add(hour), CreatedAt: start}
}

func addToken(t testing.TB, s store.Store, tenant, id string) store.JoinToken {
	t.Helper()
	k := newToken(tenant, id)
	must(t, s.CreateJoinToken(t.Context(), k, event("join_token.create")))
	return k
}

func testJoinTokens(t *testing.T, open Opener) {
	s, ctx := open(t), t.Context()
	addTenant(t, s, "a")
	want := newToken("a", "t1")
	want.NodeName = "one"
	must(t, s.CreateJoinToken(ctx, want, event("join_token.create")))
	addToken(t, s, "a", "t2")
	if got := get(s.JoinTokenByHash(ctx, want.Hash))(t); !reflect.DeepEqual(got, want) {
		t.Fatalf("token %+v; want %+v", got, want)
	}
	equal(t, "tokens", len(get(s.JoinTokens(ctx, "a"))(t)), 2)
	equal(t, "no revision", cursor(t, s, "a").Revision, 1)
	inTheWay(t, s.CreateJoinToken(ctx, want, event("join_token.create")), "t1")
	refused(t, s.CreateJoinToken(ctx, store.JoinToken{ID: "t3", Tenant: "a"}, event("join_token.create")), identity.Invalid)
	refused(t, s.CreateJoinToken(ctx, newToken("nobody", "t3"), event("join_token.create")), identity.NotFound)
	refused(t, second(s.JoinTokenByHash(ctx, hashOf("nothing"))), identity.NotFound)

	must(t, s.DeleteJoinToken(ctx, "a", "t1", event("join_token.delete")))
	refused(t, s.DeleteJoinToken(ctx, "a", "t1", event("join_token.delete")), identity.NotFound)
	refused(t, s.AttestNode(ctx, newNode("a", "one", "01"), want.Hash, start, event("node.attest")), identity.Unauthenticated)
}

// testTokenRace has two servers use one token 200 times at once.
func testTokenRace(t *testing.T, open Opener) {
	servers := []store.Store{open(t), open(t)}
	addTenant(t, servers[0], "a")
	k := addToken(t, servers[0], "a", "t1")
	var won, lost atomic.Int32
	var all sync.WaitGroup
	for i := range 200 {
		all.Go(func() {
			n := newNode("a", fmt.Sprintf("n%d", i), serialOf(i))
			switch err := servers[i%2].AttestNode(t.Context(), n, k.Hash, start, event("node.attest")); identity.CodeOf(err) {
			case "":
				won.Add(1)
			case identity.Unauthenticated:
				lost.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	all.Wait()
	equal(t, "winners", won.Load(), 1)
	equal(t, "refused", lost.Load(), 199)
	equal(t, "nodes", len(get(servers[0].Nodes(t.Context(), "a"))(t)), 1)
	equal(t, "issuances", get(servers[0].IssuanceCount(t.Context(), "a"))(t), 1)
	checkHistory(t, servers[1], "a")
}

func testTokenExpiry(t *testing.T, open Opener) {
	s, ctx := open(t), t.Context()
	addTenant(t, s, "a")
	addTenant(t, s, "b")
	for _, c := range []struct {
		name  string
		late  time.Duration
		code  identity.Code
		burnt bool
	}{
		{"refused 1 ms after", time.Millisecond, identity.Unauthenticated, false},
		{"refused at its end", 0, identity.Unauthenticated, false},
		{"twin 1 ms before", -time.Millisecond, "", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := addToken(t, s, "a", c.name)
			err := s.AttestNode(ctx, newNode("a", "one", hashText(c.name)), k.Hash, k.ExpiresAt.Add(c.late), event("node.attest"))
			equal(t, "code", identity.CodeOf(err), c.code)
			_, err = s.JoinTokenByHash(ctx, k.Hash)
			equal(t, "burnt", identity.CodeOf(err) == identity.NotFound, c.burnt)
		})
	}
	k := addToken(t, s, "b", "of b")
	t.Run("refused at the wrong tenant", func(t *testing.T) {
		refused(t, s.AttestNode(ctx, newNode("a", "two", "0a"), k.Hash, start, event("node.attest")), identity.Unauthenticated)
	})
	t.Run("twin at its tenant", func(t *testing.T) {
		must(t, s.AttestNode(ctx, newNode("b", "two", "0a"), k.Hash, start, event("node.attest")))
	})
}

func hashText(s string) string { return fmt.Sprintf("%x", hashOf(s)) }

// testAttestAtomic refuses the node at each later step: the token stays usable.
func testAttestAtomic(t *testing.T, open Opener) {
	s, ctx := open(t), t.Context()
	addTenant(t, s, "a")
	addNode(t, s, "a", "live", "01")
	addNode(t, s, "a", "banned", "02")
	must(t, s.BanNode(ctx, "a", agentID("a", "banned").String(), start, event("node.ban")))
	k := addToken(t, s, "a", "t1")
	named := newToken("a", "t2")
	named.NodeName = "another"
	must(t, s.CreateJoinToken(ctx, named, event("join_token.create")))

	otherKey := newNode("a", "live", "03")
	otherKey.SPKI = []byte("another key")
	for name, c := range map[string]struct {
		node identity.Node
		hash []byte
		code identity.Code
	}{
		"live under another key": {otherKey, k.Hash, identity.Conflict},
		"banned":                 {newNode("a", "banned", "04"), k.Hash, identity.Denied},
		"serial in use":          {newNode("a", "new", "01"), k.Hash, identity.Conflict},
		"another node's token":   {newNode("a", "new", "05"), named.Hash, identity.Denied},
		"incomplete":             {identity.Node{ID: agentID("a", "new"), Tenant: "a"}, k.Hash, identity.Invalid},
	} {
		t.Run("refused "+name, func(t *testing.T) {
			before := cursor(t, s, "a")
			refused(t, s.AttestNode(ctx, c.node, c.hash, start, event("node.attest")), c.code)
			equal(t, "cursor", cursor(t, s, "a"), before)
			get(s.JoinTokenByHash(ctx, c.hash))(t)
			refused(t, second(s.Node(ctx, "a", agentID("a", "new").String())), identity.NotFound)
		})
	}
	t.Run("twin", func(t *testing.T) {
		must(t, s.AttestNode(ctx, newNode("a", "new", "06"), k.Hash, start, event("node.attest")))
		refused(t, second(s.JoinTokenByHash(ctx, k.Hash)), identity.NotFound)
	})
	checkHistory(t, s, "a")
}

func testAttestNode(t *testing.T, open Opener) {
	s, ctx := open(t), t.Context()
	addTenant(t, s, "a")
	n := newNode("a", "one", "01")
	n.Selectors = identity.NewSelectors(identity.Selector{Type: "node", Value: "zone:z1"})
	name := n.ID.String()
	sameList(t, "changes", after(t, s, "a", func() {
		must(t, s.AttestNode(ctx, n, nil, start, event("node.attest")))
	}), []string{"node " + name})
	if got := get(s.Node(ctx, "a", name))(t); !reflect.DeepEqual(got, n) {
		t.Fatalf("node %+v; want %+v", got, n)
	}
	is := get(s.Issued(ctx, "a", "01"))(t)
	if is.Kind != identity.Agent || is.Node != name || is.SPIFFEID != n.ID || !is.ExpiresAt.Equal(n.ExpiresAt) || is.State != "intent" {
		t.Fatalf("issuance %+v; want the agent's SVID as an intent", is)
	}
	refused(t, s.AttestNode(ctx, newNode("nobody", "one", "02"), nil, start, event("node.attest")), identity.NotFound)
	refused(t, second(s.Node(ctx, "a", agentID("a", "two").String())), identity.NotFound)

	again := newNode("a", "one", "02") // the same key, while live
	must(t, s.AttestNode(ctx, again, nil, start, event("node.attest")))
	equal(t, "serial", get(s.Node(ctx, "a", name))(t).Serial, "02")
	other := newNode("a", "one", "03")
	other.SPKI, other.ExpiresAt = []byte("another key"), start.Add(3*hour)
	inTheWay(t, s.AttestNode(ctx, other, nil, again.ExpiresAt.Add(-time.Millisecond), event("node.attest")), name)
	must(t, s.AttestNode(ctx, other, nil, again.ExpiresAt, event("node.attest")))
	equal(t, "key", string(get(s.Node(ctx, "a", name))(t).SPKI), "another key")

	addNode(t, s, "a", "zero", "04")
	addNode(t, s, "a", "Zero", "05")
	var names []string
	for _, n := range get(s.Nodes(ctx, "a"))(t) {
		names = append(names, n.ID.Path())
	}
	sameList(t, "nodes, by ID", names, []string{"/agent/Zero", "/agent/one", "/agent/zero"})

	before := cursor(t, s, "a")
	must(t, s.TouchNode(ctx, "a", name, "05", start.Add(hour)))
	equal(t, "touching makes no revision", cursor(t, s, "a"), before)
	if seen := get(s.Node(ctx, "a", name))(t).LastSeen; !seen.Equal(start.Add(hour)) {
		t.Fatalf("last seen %s; want an hour later", seen)
	}
	refused(t, s.TouchNode(ctx, "a", "spiffe://a.example/agent/two", "01", start), identity.NotFound)
}

func testRenewNode(t *testing.T, open Opener) {
	s, ctx := open(t), t.Context()
	addTenant(t, s, "a")
	n := addNode(t, s, "a", "one", "01")
	n.Serial, n.ExpiresAt = "02", start.Add(2*hour)
	sameList(t, "changes", after(t, s, "a", func() {
		must(t, s.RenewNode(ctx, n, "01", start.Add(time.Minute), event("node.renew")))
	}), []string{"node " + n.ID.String()})
	n.LastSeen = start.Add(time.Minute)
	if got := get(s.Node(ctx, "a", n.ID.String()))(t); !reflect.DeepEqual(got, n) {
		t.Fatalf("node %+v; want %+v", got, n)
	}
	equal(t, "kind of the new serial", get(s.Issued(ctx, "a", "02"))(t).Kind, identity.Agent)

	lost := n // the answer got lost: the agent still holds 01, and asks again
	lost.Serial = "0a"
	must(t, s.RenewNode(ctx, lost, "01", start, event("node.renew")))
	n.Serial = "02b"
	must(t, s.RenewNode(ctx, n, "0a", start, event("node.renew")))
	must(t, s.TouchNode(ctx, "a", n.ID.String(), "0a", start)) // not the current one: confirms nothing
	n.Serial = "02c"
	must(t, s.RenewNode(ctx, n, "0a", start, event("node.renew")))
	must(t, s.TouchNode(ctx, "a", n.ID.String(), "02c", start)) // in use now

	before := cursor(t, s, "a")
	n.Serial = "03"
	inTheWay(t, s.RenewNode(ctx, n, "0a", start, event("node.renew")), n.ID.String()) // a second holder
	reused := n
	reused.Serial = "01"
	inTheWay(t, s.RenewNode(ctx, reused, "02c", start, event("node.renew")), "01")
	refused(t, s.RenewNode(ctx, newNode("a", "two", "04"), "01", start, event("node.renew")), identity.NotFound)
	equal(t, "cursor after refusals", cursor(t, s, "a"), before)
	must(t, s.RenewNode(ctx, n, "02c", start.Add(9*hour), event("node.renew"))) // after expiry: the caller's matter
	must(t, s.BanNode(ctx, "a", n.ID.String(), start, event("node.ban")))
	n.Serial = "04"
	refused(t, s.RenewNode(ctx, n, "03", start, event("node.renew")), identity.Denied)
	checkHistory(t, s, "a")
}

func testRemoveNode(t *testing.T, open Opener) {
	s, ctx := open(t), t.Context()
	for name, remove := range map[string]func(tenant, id string) error{
		"ban":    func(tenant, id string) error { return s.BanNode(ctx, tenant, id, start, event("node.ban")) },
		"delete": func(tenant, id string) error { return s.DeleteNode(ctx, tenant, id, start, event("node.delete")) },
	} {
		t.Run(name, func(t *testing.T) {
			addTenant(t, s, name)
			n := addNode(t, s, name, "one", "01")
			addNode(t, s, name, "two", "02")
			e := addEntry(t, s, name, "e1")
			issue(t, s, e, "0b")
			_, err := record(t, s, name, newIntent(e, "0a", "r")) // not finished
			must(t, err)
			want := []string{"node " + n.ID.String(), "revocation " + n.ID.String()}
			if name == "delete" {
				want[0] += " deleted"
			}
			sameList(t, "changes", after(t, s, name, func() { must(t, remove(name, n.ID.String())) }), want)
			sameList(t, "revoked", revokedSerials(t, s, name), []string{"01", "0a", "0b"})
			_, err = record(t, s, name, newIntent(e, "0c", "r2"))
			refused(t, err, identity.Denied)
			refused(t, remove(name, "spiffe://a.example/agent/none"), identity.NotFound)

			attest := s.AttestNode(ctx, newNode(name, "one", "03"), nil, start, event("node.attest"))
			if name == "ban" {
				refused(t, attest, identity.Denied)
				equal(t, "banned", get(s.Node(ctx, name, n.ID.String()))(t).Banned, true)
				must(t, remove(name, n.ID.String())) // again
				return
			}
			must(t, attest)
			_, err = record(t, s, name, newIntent(e, "0d", "r"))
			refused(t, err, identity.Conflict) // never the revoked one back
			_, err = record(t, s, name, newIntent(e, "0e", "r3"))
			must(t, err)
		})
	}
}
