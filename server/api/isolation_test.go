package api_test

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/wire"
	"github.com/authsec-ai/icp/server/api"
	"github.com/authsec-ai/icp/server/store"
)

// furnish gives a tenant one object of each kind and their names by path parameter.
func furnish(tn *tenant) (map[string]string, *node, identity.Entry) {
	t := tn.w.t
	e := tn.entry("n-"+tn.id, "/secret-of-"+tn.id, nil)
	n := tn.attest("n-" + tn.id)
	tn.admin.do("PUT", "/api/v1/policies/policy-of-"+tn.id, goodPolicy(tn, "llm")).want(t, 201, nil)
	var join, key struct{ ID string }
	tn.admin.do("POST", "/api/v1/join-tokens", doc(map[string]any{"node_name": "next-" + tn.id})).want(t, 201, &join)
	tn.admin.do("POST", "/api/v1/tokens", `{"name": "token-of-`+tn.id+`", "role": "viewer"}`).want(t, 201, &key)
	return map[string]string{
		"/api/v1/workloads/:id": e.ID, "/api/v1/policies/:name": "policy-of-" + tn.id, "/api/v1/agents/:node": n.name,
		"/api/v1/join-tokens/:id": join.ID, "/api/v1/tokens/:id": key.ID, "/api/v1/tenants/:tenant": tn.id,
	}, n, e
}

func goodPolicy(tn *tenant, service string) string {
	return doc(map[string]any{"effect": "allow", "subjects": []string{tn.spiffeID("/web")}, "service": service,
		"methods": []string{"GET"}, "paths": []string{"/**"}})
}

// TestTenantsAreApart sends the administrator of one tenant after every object
// of another, on every route.
func TestTenantsAreApart(t *testing.T) {
	w := newWorld(t)
	victim, mallory := w.newTenant("acme"), w.newTenant("mallory")
	objects, _, entry := furnish(victim)
	furnish(mallory)
	before := rowsWith(w.dump(), `"acme"`)
	for _, r := range api.Routes() {
		if !r.TakesTenant {
			continue
		}
		object := objects[strings.TrimSuffix(r.Path, "/ban")]
		if strings.Contains(r.Path, ":") && object == "" {
			t.Errorf("no object for route %s: give the test one", r.Path)
		}
		path := fill(r.Path, object)
		for _, role := range []store.Role{store.TenantAdmin, store.Viewer, store.Auditor} {
			from := mallory.as(role)
			t.Run("T-14/"+string(role)+" "+r.Method+" "+r.Path, func(t *testing.T) {
				body := ""
				if r.HasBody {
					body = sensibleBody(mallory, r)
				}
				if object != "" && !(r.Method == "PUT" && strings.Contains(r.Path, "policies")) {
					expectNothing(t, from.do(r.Method, path, body))
				}
				expectNothing(t, from.do(r.Method, path+"?tenant_id=acme", body))
				if r.HasBody && !strings.Contains(r.Path, "/tenants") {
					expectNothing(t, from.do(r.Method, path, strings.Replace(body, "{", `{"tenant_id": "acme", `, 1)))
				}
			})
		}
	}
	if after := rowsWith(w.dump(), `"acme"`); after != before {
		t.Errorf("SV-7: the victim's rows changed:\nbefore\n%s\nafter\n%s", before, after)
	}
	t.Run("SV-7/twin: the owner sees it", func(t *testing.T) {
		victim.admin.do("GET", "/api/v1/workloads/"+entry.ID, "").want(t, 200, nil)
	})
	t.Run("SV-7/denials are recorded", func(t *testing.T) {
		var events struct {
			Items []struct{ Outcome, Reason string }
		}
		mallory.admin.do("GET", "/api/v1/audit?limit=1000", "").want(t, 200, &events)
		for _, ev := range events.Items {
			if ev.Outcome == "denied" && ev.Reason == "no such tenant" {
				return
			}
		}
		t.Errorf("no denial in %+v", events.Items)
	})
}

// sensibleBody is one that the route would take from its own tenant.
func sensibleBody(tn *tenant, r api.RouteInfo) string {
	switch {
	case strings.Contains(r.Path, "/workloads"):
		return doc(map[string]any{"spiffe_id": tn.spiffeID("/web"), "parent_id": tn.spiffeID("/agent/n1"), "selectors": []string{"unix:uid:1"}})
	case strings.Contains(r.Path, "/policies/evaluate"):
		return doc(map[string]any{"subject": tn.spiffeID("/web"), "service": "llm", "method": "GET", "path": "/"})
	case r.Method == "POST" && strings.Contains(r.Path, "/policies"):
		return strings.Replace(goodPolicy(tn, "llm"), "{", `{"name": "p9", `, 1)
	case strings.Contains(r.Path, "/policies"):
		return goodPolicy(tn, "llm")
	case r.Method == "PATCH" && strings.Contains(r.Path, "/tenants"):
		return `{"settings": {"ttl": "10m"}}`
	case r.Method == "POST" && strings.Contains(r.Path, "/tenants"):
		return `{"id": "acme"}`
	case strings.Contains(r.Path, "/tokens"):
		return `{"name": "x", "role": "viewer"}`
	}
	return `{"ttl": "1m"}`
}

// expectNothing accepts the answers that tell another tenant nothing: there is
// no such thing, or (to a role that may not use the route at all) denied.
func expectNothing(t *testing.T, a answer) {
	t.Helper()
	if a.status != 404 && a.status != 403 {
		t.Errorf("status %d: %s", a.status, a.body)
	}
	if strings.Contains(string(a.body), "secret-of-acme") {
		t.Errorf("the answer tells something: %s", a.body)
	}
}

func rowsWith(dump, part string) string {
	var kept []string
	for _, line := range strings.Split(dump, "\n") {
		if strings.Contains(line, part) {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "\n")
}

// TestAgentsAreApart lets an agent ask for what is another's.
func TestAgentsAreApart(t *testing.T) {
	w := newWorld(t)
	victim, mallory := w.newTenant("acme"), w.newTenant("mallory")
	_, victimNode, foreign := furnish(victim)
	_, thief, own := furnish(mallory)
	sibling := mallory.entry("another-node", "/sibling", nil)
	for name, e := range map[string]identity.Entry{"T-05/entry of another node": sibling, "SV-7/entry of another tenant": foreign} {
		t.Run(name, func(t *testing.T) {
			if _, _, err := thief.svid(e); identity.CodeOf(err) != identity.Denied {
				t.Errorf("got %v, want it denied", err)
			}
			csr := base64.StdEncoding.EncodeToString(newCSR(t, newKey(t)))
			for _, tenant := range []string{"", "acme"} {
				a := thief.do("POST", "/api/v1/workload/attest", doc(map[string]any{
					"tenant_id": tenant, "agent_id": victimNode.id, "selectors": e.Selectors, "csr": csr}))
				if a.status != 403 && a.status != 404 {
					t.Errorf("status %d: %s", a.status, a.body)
				}
			}
		})
	}
	t.Run("T-05/one bad item of a batch", func(t *testing.T) {
		items := make([]wire.SignItem, 5)
		for i := range items {
			e := own
			if i == 2 {
				e = foreign
			}
			items[i] = wire.SignItem{EntryID: e.ID, EntryRevision: e.Revision, Selectors: e.Selectors, CSR: newCSR(t, newKey(t))}
		}
		var got wire.SignResponse
		thief.do("POST", wire.PathSign, doc(wire.SignRequest{Items: items})).want(t, 200, &got)
		for i, r := range got.Results {
			if bad := r.Error != nil; bad != (i == 2) {
				t.Errorf("item %d: %+v", i, r.Error)
			}
		}
	})
	t.Run("T-05/twin: its own entry", func(t *testing.T) {
		_, _, err := thief.svid(own)
		check(t, err)
	})
	t.Run("SV-7/sync shows its own alone", func(t *testing.T) {
		f := open[wire.SyncFrame](thief.client, wire.PathSync).next(func(f wire.SyncFrame) bool { return f.Done })
		if len(f.Upserts) != 1 || f.Upserts[0].ID != own.ID || f.Bundles["mallory.example"] == nil || len(f.Bundles) != 1 {
			t.Errorf("got %+v", f)
		}
	})
}
