package api_test

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"net/http"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/audit"
	"github.com/authsec-ai/icp/internal/wire"
	"github.com/authsec-ai/icp/server/nodes/jointoken"
	"github.com/authsec-ai/icp/server/store"
)

func TestJoinToken(t *testing.T) {
	w := newWorld(t)
	a := w.newTenant("acme")
	attest := func(token, name string) answer {
		return w.as("").do("POST", wire.PathAttest, doc(wire.AttestRequest{
			Method: jointoken.Method, Token: token, NodeID: name, CSR: newCSR(t, newKey(t))}))
	}
	t.Run("NA-3/hash at rest", func(t *testing.T) {
		token := a.joinToken(nil)
		if !strings.HasPrefix(token, "icp-join-") || len(token) < len("icp-join-")+22 {
			t.Errorf("token %q has less than 128 bits", token)
		}
		if strings.Contains(w.dump(), token) {
			t.Error("the secret is in the store")
		}
		if list := a.admin.do("GET", "/api/v1/join-tokens", ""); strings.Contains(string(list.body), token) {
			t.Error("the listing shows the secret")
		}
	})
	t.Run("T-46/a stranger's body is small", func(t *testing.T) {
		big := func(n int) string { return `{"method": "join_token", "data": "` + strings.Repeat("x", n) + `"}` }
		w.as("").do("POST", wire.PathAttest, big(1<<16)).want(t, 413, nil)
		w.as("").do("POST", wire.PathAttest, big(1<<15)).want(t, 400, nil)
	})
	t.Run("NA-3/used once", func(t *testing.T) {
		token := a.joinToken(nil)
		attest(token, "once").want(t, 200, nil)
		attest(token, "twice").want(t, 401, nil)
	})
	t.Run("NA-3/expired", func(t *testing.T) {
		token := a.joinToken(map[string]any{"ttl": "1m"})
		twin := a.joinToken(map[string]any{"ttl": "2m"})
		w.clock.Advance(time.Minute)
		attest(token, "late").want(t, 401, nil)
		attest(twin, "in-time").want(t, 200, nil)
	})
	t.Run("NA-3/taken back", func(t *testing.T) {
		var got struct{ ID, Token string }
		a.admin.do("POST", "/api/v1/join-tokens", `{}`).want(t, 201, &got)
		a.admin.do("DELETE", "/api/v1/join-tokens/"+got.ID, "").want(t, 204, nil)
		attest(got.Token, "revoked").want(t, 401, nil)
	})
	t.Run("T-01/one winner", func(t *testing.T) {
		const rivals = 40
		token := a.joinToken(nil)
		statuses := make(chan int, rivals)
		var all sync.WaitGroup
		for i := range rivals {
			all.Go(func() { statuses <- attest(token, "rival-"+string(rune('a'+i%26))+string(rune('a'+i/26))).status })
		}
		all.Wait()
		close(statuses)
		count := map[int]int{}
		for s := range statuses {
			count[s]++
		}
		if count[200] != 1 || count[401] != rivals-1 {
			t.Errorf("statuses %v, want one 200 and the rest 401", count)
		}
	})
	t.Run("T-02/wrong name burns nothing", func(t *testing.T) {
		token := a.joinToken(map[string]any{"node_name": "fixed"})
		attest(token, "other").want(t, 403, nil)
		attest(token, "fixed").want(t, 200, nil)
	})
}

func TestAgentIdentity(t *testing.T) {
	w := newWorld(t)
	a := w.newTenant("acme")
	n := a.attest("node-01")
	leaf := must(x509.ParseCertificate(n.chain[0]))(t)
	t.Run("NA-8", func(t *testing.T) {
		if n.id != "spiffe://acme.example/agent/node-01" || len(leaf.URIs) != 1 || leaf.URIs[0].String() != n.id {
			t.Errorf("agent %q, certificate for %v", n.id, leaf.URIs)
		}
		if left := time.Until(leaf.NotAfter); left < 59*time.Minute || left > time.Hour {
			t.Errorf("it lives %s, want an hour", left)
		}
	})
	t.Run("no workload bundle holds its anchor", func(t *testing.T) {
		var got struct {
			Bundle string `json:"ca_bundle"`
		}
		w.as("").do("GET", "/bundle/acme", "").want(t, 200, &got)
		roots, chain := x509.NewCertPool(), x509.NewCertPool()
		roots.AppendCertsFromPEM([]byte(got.Bundle))
		chain.AddCert(must(x509.ParseCertificate(n.chain[1]))(t))
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: chain}); err == nil {
			t.Error("a workload would take the agent for one of its own")
		}
	})
	t.Run("NA-10", func(t *testing.T) {
		for i := range 3 {
			w.clock.Advance(40 * time.Minute)
			var got wire.AttestResponse
			n.renew().want(t, 200, &got)
			if got.AgentID != n.id {
				t.Fatalf("renewal %d is for %q", i, got.AgentID)
			}
			n.use(got)
		}
	})
}

// TestNextCall is about what changes while an agent is connected and has called
// before: its very next call sees it.
func TestNextCall(t *testing.T) {
	w := newWorld(t)
	a := w.newTenant("acme")
	for name, change := range map[string]func(n *node, e identity.Entry){
		"T-27/node banned": func(n *node, _ identity.Entry) {
			a.admin.do("POST", "/api/v1/agents/"+path.Base(n.id)+"/ban", "").want(t, 204, nil)
		},
		"T-27/node deleted": func(n *node, _ identity.Entry) {
			a.admin.do("DELETE", "/api/v1/agents/"+path.Base(n.id), "").want(t, 204, nil)
		},
		"NA-10/its SVID replaced": func(n *node, _ identity.Entry) {
			n.renew().want(t, 200, nil)
		},
		"its SVID expired": func(*node, identity.Entry) { w.clock.Advance(time.Hour + time.Second) },
		"T-18/entry deleted": func(_ *node, e identity.Entry) {
			a.admin.do("DELETE", "/api/v1/workloads/"+e.ID, "").want(t, 204, nil)
		},
		"T-18/entry changed": func(_ *node, e identity.Entry) {
			a.admin.do("PATCH", "/api/v1/workloads/"+e.ID, `{"ttl": "10m"}`).want(t, 200, nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := a.attest("next-" + strings.ToLower(rand.Text()))
			e := a.entry(path.Base(n.id), "/"+strings.ToLower(rand.Text()), nil)
			for range 2 {
				if _, _, err := n.svidOrRefusal(e); err != nil {
					t.Fatal("twin: before the change: ", err)
				}
			}
			change(n, e)
			if _, _, err := n.svidOrRefusal(e); err == nil {
				t.Error("the next call was signed")
			}
		})
	}
}

// TestComeBack is about agents that were away.
func TestComeBack(t *testing.T) {
	const outage = 2 * time.Hour
	w := newWorld(t)
	a := w.newTenant("acme")
	t.Run("two-hour outage", func(t *testing.T) {
		n := a.attest("n1")
		e := a.entry("n1", "/web", nil)
		w.clock.Advance(outage)
		if _, _, err := n.svidOrRefusal(e); err == nil {
			t.Error("an expired agent SVID still signs")
		}
		var got wire.AttestResponse
		n.renew().want(t, 200, &got)
		n.use(got)
		_, _, err := n.svid(e)
		check(t, err)
	})
	t.Run("grace/refused", func(t *testing.T) {
		n := a.attest("n2")
		w.clock.Advance(7*24*time.Hour + time.Hour + time.Minute)
		if got := n.renew().want(t, 401, nil); !strings.Contains(got.detail(), "attest this node anew") {
			t.Errorf("it does not say what to do: %q", got.detail())
		}
	})
	t.Run("grace/twin", func(t *testing.T) {
		n := a.attest("n3")
		w.clock.Advance(7*24*time.Hour + time.Hour - time.Minute)
		n.renew().want(t, 200, nil)
	})
	t.Run("grace/by attesting anew", func(t *testing.T) { a.attest("n2") })
	t.Run("T-27/banned", func(t *testing.T) {
		n := a.attest("n4")
		e := a.entry("n4", "/db", nil)
		a.admin.do("POST", "/api/v1/agents/n4/ban", "").want(t, 204, nil)
		if _, _, err := n.svidOrRefusal(e); err == nil {
			t.Error("a banned agent still signs")
		}
		if ev := must(w.store.Events(t.Context(), a.id, 0, 1))(t)[0]; ev.Actor != n.id || ev.Outcome != audit.Denied || ev.Action != "POST "+wire.PathSign {
			t.Errorf("the last event is %+v, want the denial", ev)
		}
		n.renew().want(t, 403, nil)
		w.clock.Advance(outage)
		n.renew().want(t, 403, nil)
		var view struct{ Status string }
		if a.admin.do("GET", "/api/v1/agents/n4", "").want(t, 200, &view); view.Status != "banned" {
			t.Errorf("status %q", view.Status)
		}
	})
	t.Run("T-27/deleted", func(t *testing.T) {
		n := a.attest("n5")
		a.admin.do("DELETE", "/api/v1/agents/n5", "").want(t, 204, nil)
		n.renew().want(t, 401, nil)
	})
}

// svidOrRefusal is svid for an agent that may not even pass the door.
func (n *node) svidOrRefusal(e identity.Entry) ([][]byte, any, error) {
	got := n.do("POST", wire.PathSign, doc(wire.SignRequest{Items: []wire.SignItem{{
		EntryID: e.ID, EntryRevision: e.Revision, Selectors: e.Selectors, CSR: newCSR(n.tn.w.t, newKey(n.tn.w.t))}}}))
	if got.status != 200 {
		return nil, nil, identity.Errorf(identity.Denied, "%s", got.body)
	}
	return n.svid(e)
}

// TestTwoHolders is T-28: a key was copied, and both copies renew.
func TestTwoHolders(t *testing.T) {
	w := newWorld(t)
	a := w.newTenant("acme")
	n := a.attest("n1")
	copied := *n
	var got wire.AttestResponse
	n.renew().want(t, 200, nil) // an answer that never arrives
	t.Run("lost answer", func(t *testing.T) {
		n.renew().want(t, 200, &got)
	})
	n.use(got)
	open[wire.SyncFrame](n.client, wire.PathSync).next(done) // the new SVID is seen in use
	t.Run("T-28/refused", func(t *testing.T) {
		copied.renew().want(t, 409, nil)
		copied.do("POST", wire.PathSign, `{"items": [{}]}`).want(t, 401, nil)
	})
	t.Run("T-28/recorded", func(t *testing.T) {
		var events page[audit.Event]
		a.admin.do("GET", "/api/v1/audit?limit=3", "").want(t, 200, &events)
		ev := events.Items[0]
		if ev.Action != "node.renew" || ev.Outcome != audit.Denied || ev.Object != n.id || !strings.Contains(ev.Reason, "two agents") {
			t.Errorf("got %+v", ev)
		}
	})
	t.Run("T-28/twin", func(t *testing.T) {
		n.renew().want(t, 200, nil)
	})
}

func TestAgentStatus(t *testing.T) {
	w := newWorld(t)
	a := w.newTenant("acme")
	n := a.attest("n1")
	is := func(want string) {
		t.Helper()
		var got struct{ Status string }
		var all page[struct{ Status string }]
		a.as(store.Viewer).do("GET", "/api/v1/agents/n1", "").want(t, 200, &got)
		a.as(store.Viewer).do("GET", "/api/v1/agents", "").want(t, 200, &all)
		if got.Status != want || all.Items[0].Status != want {
			t.Errorf("status %q, in the list %q, want %q", got.Status, all.Items[0].Status, want)
		}
	}
	is("ok")
	w.clock.Advance(31 * time.Second) // two times of noting that it is there
	t.Run("SV-13/silent", func(t *testing.T) { is("stale") })
	t.Run("SV-13/twin", func(t *testing.T) {
		open[wire.SyncFrame](n.client, wire.PathSync).next(done)
		is("ok")
	})
	w.clock.Advance(time.Hour)
	t.Run("SV-13/expired", func(t *testing.T) { is("expired") })
	a.admin.do("POST", "/api/v1/agents/n1/ban", "").want(t, 204, nil)
	t.Run("SV-13/banned", func(t *testing.T) { is("banned") })
}

// leaver is a store in front of which a caller hangs up as soon as its renewal is refused.
type leaver struct {
	store.Store
	hangUp func()
}

func (l *leaver) RenewNode(ctx context.Context, n identity.Node, old string, now time.Time, ev audit.Event) error {
	err := l.Store.RenewNode(ctx, n, old, now, ev)
	if identity.CodeOf(err) == identity.Conflict {
		l.hangUp()
		<-ctx.Done()
	}
	return err
}

// TestTwoHoldersLeave is T-28 with a second holder that does not wait for its answer.
func TestTwoHoldersLeave(t *testing.T) {
	l := &leaver{}
	w := newWorldOn(t, func(s store.Store) store.Store { l.Store = s; return l })
	a := w.newTenant("acme")
	n := a.attest("n1")
	copied := *n
	var got wire.AttestResponse
	n.renew().want(t, 200, &got)
	n.use(got)
	open[wire.SyncFrame](n.client, wire.PathSync).next(done)

	ctx, cancel := context.WithCancel(t.Context())
	l.hangUp = cancel
	req := must(http.NewRequestWithContext(ctx, "POST", w.url+wire.PathRenew, strings.NewReader(doc(wire.RenewRequest{CSR: newCSR(t, n.key)}))))(t)
	if resp, err := copied.http.Do(req); err == nil {
		t.Errorf("the caller that left got status %d", resp.StatusCode)
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		ev := must(w.store.Events(t.Context(), a.id, 0, 1))(t)[0]
		if ev.Action == "node.renew" && ev.Outcome == audit.Denied {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the last event is %+v", ev)
		}
	}
}

func TestWorkloadAttest(t *testing.T) {
	w := newWorld(t)
	a := w.newTenant("acme")
	n := a.attest("n1")
	a.entry("n1", "/general", map[string]any{"selectors": []string{"unix:uid:1000"}})
	exact := a.entry("n1", "/exact", map[string]any{"selectors": []string{"unix:uid:1000", "unix:path:/bin/web"}})
	csr := newCSR(t, newKey(t))
	for name, text := range map[string]string{
		"SV-10/CSR in PEM":    string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})),
		"SV-10/CSR in base64": base64.StdEncoding.EncodeToString(newCSR(t, newKey(t))),
	} {
		t.Run(name, func(t *testing.T) {
			var got struct {
				SPIFFEID    string `json:"spiffe_id"`
				Certificate string
				TrustBundle string `json:"trust_bundle"`
				TTL         int64
			}
			n.do("POST", "/spiresvc/api/v1/workload/attest", doc(map[string]any{"tenant_id": "acme", "agent_id": n.id, "csr": text,
				"selectors": map[string]string{"unix:uid": "1000", "unix:path": "/bin/web", "unix:gid": "7"}})).want(t, 200, &got)
			if got.SPIFFEID != exact.SPIFFEID.String() || got.TTL < 3590 || got.TTL > 3600 {
				t.Errorf("got %+v, want the entry with the most selectors", got)
			}
			roots := x509.NewCertPool()
			roots.AppendCertsFromPEM([]byte(got.TrustBundle))
			chain := decodeChain(t, got.Certificate)
			issuers := x509.NewCertPool()
			issuers.AddCert(must(x509.ParseCertificate(chain[1]))(t))
			leaf := must(x509.ParseCertificate(chain[0]))(t)
			if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: issuers}); err != nil {
				t.Errorf("CA-9: the bundle does not verify it: %v", err)
			}
		})
	}
}
