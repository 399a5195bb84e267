package api_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/wire"
	"github.com/authsec-ai/icp/policy"
)

func named(names ...string) func(wire.PolicyFrame) bool {
	return func(f wire.PolicyFrame) bool {
		if f.Policies == nil || len(f.Policies.Policies) != len(names) {
			return false
		}
		for i, p := range f.Policies.Policies {
			if p.Name != names[i] {
				return false
			}
		}
		return true
	}
}

func revokedID(id string) func(wire.PolicyFrame) bool {
	return func(f wire.PolicyFrame) bool {
		if f.Revocations == nil {
			return false
		}
		for _, r := range *f.Revocations {
			if r.SPIFFEID == id {
				return true
			}
		}
		return false
	}
}

func TestGateway(t *testing.T) {
	w := newWorld(t)
	a := w.newTenant("acme")
	n := a.attest("n1")
	proxy := a.entry("n1", "/gw", map[string]any{"gateway": []string{"llm"}})
	chain, key, err := n.svid(proxy)
	check(t, err)
	a.admin.do("PUT", "/api/v1/policies/p1", goodPolicy(a, "llm")).want(t, 201, nil)
	a.admin.do("PUT", "/api/v1/policies/other", goodPolicy(a, "billing")).want(t, 201, nil)
	s := open[wire.PolicyFrame](w.withCert(chain, key), wire.PathGateway)
	t.Run("only the granted services", func(t *testing.T) {
		f := s.next(func(f wire.PolicyFrame) bool { return f.Policies != nil })
		if !named("p1")(f) || f.Revocations == nil || len(*f.Revocations) != 0 {
			t.Errorf("got %+v", f)
		}
		check(t, policy.NewEngine().Load(*f.Policies))
	})
	t.Run("SV-12/changes come", func(t *testing.T) {
		a.admin.do("PUT", "/api/v1/policies/p2", goodPolicy(a, "llm")).want(t, 201, nil)
		s.next(named("p1", "p2"))
		a.admin.do("DELETE", "/api/v1/policies/p1", "").want(t, 204, nil)
		s.next(named("p2"))
	})
	t.Run("RV-2/revocations come", func(t *testing.T) {
		victim := a.entry("n1", "/victim", nil)
		_, _, err := n.svid(victim)
		check(t, err)
		a.admin.do("DELETE", "/api/v1/workloads/"+victim.ID, "").want(t, 204, nil)
		s.next(revokedID(victim.SPIFFEID.String()))
	})
	t.Run("RV-2/an entry gets another ID", func(t *testing.T) {
		victim := a.entry("n1", "/before", nil)
		_, _, err := n.svid(victim)
		check(t, err)
		a.admin.do("PATCH", "/api/v1/workloads/"+victim.ID, doc(map[string]string{"spiffe_id": a.spiffeID("/after")})).want(t, 200, nil)
		s.next(revokedID(victim.SPIFFEID.String()))
	})
	t.Run("the grant widens", func(t *testing.T) {
		a.admin.do("PATCH", "/api/v1/workloads/"+proxy.ID, `{"gateway": ["billing", "llm"]}`).want(t, 200, nil)
		s.next(named("other", "p2"))
	})
	t.Run("heartbeat", func(t *testing.T) {
		s.next(func(f wire.PolicyFrame) bool { return f.Policies == nil && f.Revocations == nil && !f.Time.IsZero() })
	})
	t.Run("a policy of no service leaves an empty set", func(t *testing.T) {
		lone := open[wire.PolicyFrame](a.workload(n, "/gw2", []string{"nothing"}), wire.PathGateway)
		f := lone.next(func(f wire.PolicyFrame) bool { return f.Policies != nil })
		if f.Policies.Policies == nil || len(f.Policies.Policies) != 0 {
			t.Errorf("got %+v, want an empty list", f.Policies)
		}
	})
	t.Run("the grant is withdrawn", func(t *testing.T) {
		a.admin.do("PATCH", "/api/v1/workloads/"+proxy.ID, `{"gateway": []}`).want(t, 200, nil)
		s.ends()
	})
}

// TestGatewayOfMany has more policies than an agent's frame holds: each gateway
// gets all of them in one.
func TestGatewayOfMany(t *testing.T) {
	const policies = 3
	w := newWorld(t)
	a := w.newTenant("acme")
	n := a.attest("n1")
	paths := make([]string, 200)
	for i := range paths {
		paths[i] = fmt.Sprintf("/%03d/%s", i, longText(2000))
	}
	var names []string
	for i := range policies {
		names = append(names, fmt.Sprintf("p%d", i))
		a.admin.do("PUT", "/api/v1/policies/"+names[i], doc(map[string]any{"effect": "deny", "subjects": []string{a.spiffeID("/web")},
			"service": "llm", "methods": []string{"GET"}, "paths": paths})).want(t, 201, nil)
	}
	s := open[wire.PolicyFrame](a.workload(n, "/gw", []string{"llm"}), wire.PathGateway)
	s.next(named(names...))
}

func TestGatewayEnds(t *testing.T) {
	w := newWorld(t)
	a := w.newTenant("acme")
	n := a.attest("n1")
	follow := func(path string) (identity.Entry, *frames[wire.PolicyFrame], *client) {
		e := a.entry("n1", path, map[string]any{"gateway": []string{"llm"}})
		chain, key, err := n.svid(e)
		check(t, err)
		c := w.withCert(chain, key)
		s := open[wire.PolicyFrame](c, wire.PathGateway)
		s.next(func(f wire.PolicyFrame) bool { return f.Policies != nil })
		return e, s, c
	}
	t.Run("RV-1/entry deleted", func(t *testing.T) {
		e, s, c := follow("/gw1")
		a.admin.do("DELETE", "/api/v1/workloads/"+e.ID, "").want(t, 204, nil)
		s.ends()
		if again := open[wire.PolicyFrame](c, wire.PathGateway); again.status != 403 {
			t.Errorf("status %d when it comes again", again.status)
		}
	})
	t.Run("SVID expired", func(t *testing.T) {
		_, s, _ := follow("/gw2")
		w.clock.Advance(time.Hour + time.Minute)
		s.ends()
	})
	t.Run("RV-3/its node banned", func(t *testing.T) {
		var renewed wire.AttestResponse
		n.renew().want(t, 200, &renewed)
		n.use(renewed)
		_, s, _ := follow("/gw3")
		a.admin.do("POST", "/api/v1/agents/n1/ban", "").want(t, 204, nil)
		s.ends()
	})
}
