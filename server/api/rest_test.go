package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/audit"
	"github.com/authsec-ai/icp/policy"
	"github.com/authsec-ai/icp/server/store"
)

type page[T any] struct {
	Items []T
	Next  string
}

// TestCurl sends what people paste into a shell.
func TestCurl(t *testing.T) {
	w := newWorld(t)
	a := w.newTenant("acme")
	body := `{
    "spiffe_id": "spiffe://acme.example/workload/frontend",
    "parent_id": "spiffe://acme.example/agent/k8s-node-01",
    "selectors": {
      "k8s:ns": "production",
      "k8s:pod-label:app": "frontend"
    }
  }`
	t.Run("SV-2", func(t *testing.T) { // curl names this content type when it is given -d alone
		got := a.admin.do("POST", "/api/v1/workloads", body, "Content-Type: application/x-www-form-urlencoded").want(t, 201, nil)
		if !strings.Contains(string(got.body), `"selectors":["k8s:ns:production","k8s:pod-label:app:frontend"]`) {
			t.Errorf("answered %s", got.body)
		}
	})
	t.Run("SV-2/without content type", func(t *testing.T) {
		a.admin.do("POST", "/api/v1/workloads", strings.Replace(body, "workload/frontend", "w2", 1), "Content-Type: ").want(t, 201, nil)
	})
	t.Run("SV-3", func(t *testing.T) {
		a.admin.do("POST", "/spiresvc/api/v1/workloads", strings.Replace(body, "workload/frontend", "w3", 1)).want(t, 201, nil)
	})
	t.Run("C7/without token", func(t *testing.T) {
		got := w.as("").do("POST", "/spiresvc/api/v1/workloads", body).want(t, 401, nil)
		if !strings.Contains(got.detail(), "Authorization: Bearer") || got.header.Get("WWW-Authenticate") == "" {
			t.Errorf("it does not say how: %q", got.detail())
		}
	})
}

func TestSelectorSpellings(t *testing.T) {
	w := newWorld(t)
	a := w.newTenant("acme")
	spellings := []string{
		`["k8s:ns:prod", "k8s:pod-label:app:web"]`,
		`["k8s:ns=prod", "k8s:pod-label:app=web"]`,
		`{"k8s:ns": "prod", "k8s:pod-label:app": "web"}`,
		`[{"type": "k8s", "value": "ns:prod"}, {"type": "k8s", "value": "pod-label:app:web"}]`,
	}
	var first identity.Entry
	for i, s := range spellings {
		t.Run(fmt.Sprintf("SV-8/%d", i), func(t *testing.T) {
			body := `{"spiffe_id": "spiffe://acme.example/web", "parent_id": "spiffe://acme.example/agent/n1", "selectors": ` + s + `}`
			got := a.admin.do("POST", "/api/v1/workloads", body)
			if i == 0 {
				got.want(t, 201, &first)
				return
			}
			var p struct{ ID string }
			got.want(t, 409, &p)
			if p.ID != first.ID {
				t.Errorf("it is another entry than %s: %s", first.ID, got.body)
			}
		})
	}
}

func TestEntries(t *testing.T) {
	w := newWorld(t)
	a := w.newTenant("acme")
	e := a.entry("n1", "/web", map[string]any{"dns_names": []string{"web.acme.example"}, "ttl": "10m"})
	path := "/api/v1/workloads/" + e.ID
	t.Run("SV-4/read", func(t *testing.T) {
		var got identity.Entry
		a.as(store.Viewer).do("GET", path, "").want(t, 200, &got)
		if got.Revision != e.Revision || got.SPIFFEID != e.SPIFFEID || got.TTL != e.TTL || got.Tenant != "acme" {
			t.Errorf("got %+v, want %+v", got, e)
		}
	})
	t.Run("SV-4/patch sets what it names", func(t *testing.T) {
		var got identity.Entry
		a.admin.do("PATCH", path, `{"ttl": 60}`).want(t, 200, &got)
		if got.TTL != identity.Duration(time.Minute) || !slices.Equal(got.DNSNames, e.DNSNames) || !slices.Equal(got.Selectors, e.Selectors) || got.ParentID != e.ParentID {
			t.Errorf("got %+v", got)
		}
		var emptied identity.Entry
		a.admin.do("PATCH", path, `{"dns_names": []}`).want(t, 200, &emptied)
		if len(emptied.DNSNames) != 0 {
			t.Errorf("the list is still there: %v", emptied.DNSNames)
		}
	})
	t.Run("SV-4/patch with null unsets", func(t *testing.T) {
		var got identity.Entry
		a.admin.do("PATCH", path, `{"gateway": ["llm"], "hint": "x", "renew_at": 0.5, "dns_names": ["web.acme.example"]}`).want(t, 200, nil)
		a.admin.do("PATCH", path, `{"gateway": null, "hint": null, "renew_at": null}`, "Content-Type: application/merge-patch+json").want(t, 200, &got)
		if len(got.Gateway) != 0 || got.Hint != "" || got.RenewAt != 0 || len(got.DNSNames) != 1 {
			t.Errorf("got %+v", got)
		}
		a.admin.do("PATCH", path, `{"selectors": null}`).want(t, 400, nil)
		var tn store.Tenant
		a.admin.do("PATCH", "/api/v1/tenants/acme", `{"settings": {"any_node": true, "max_ttl": "2h"}}`).want(t, 200, nil)
		a.admin.do("PATCH", "/api/v1/tenants/acme", `{"settings": {"any_node": null}}`).want(t, 200, &tn)
		if tn.Settings.AnyNode || tn.Settings.MaxTTL != identity.Duration(2*time.Hour) {
			t.Errorf("got %+v", tn.Settings)
		}
		a.admin.do("PATCH", "/api/v1/tenants/acme", `{"settings": {"max_ttl": null}}`).want(t, 200, nil)
	})
	t.Run("SV-4/put replaces", func(t *testing.T) {
		read := a.admin.do("GET", path, "").want(t, 200, nil)
		body := doc(map[string]any{"spiffe_id": e.SPIFFEID, "parent_id": e.ParentID, "selectors": []string{"unix:uid:7"}})
		var got identity.Entry
		a.admin.do("PUT", path, body, "If-Match: "+read.header.Get("ETag")).want(t, 200, &got)
		if got.TTL != 0 || got.Selectors[0].Value != "uid:7" || !got.CreatedAt.Equal(e.CreatedAt) {
			t.Errorf("got %+v", got)
		}
		a.admin.do("PUT", path, body, "If-Match: "+read.header.Get("ETag")).want(t, 409, nil)
	})
	t.Run("SV-5/changes are recorded", func(t *testing.T) {
		a.admin.do("PATCH", path, `{"hint": "main"}`, "X-Request-Id: my-own-request-1").want(t, 200, nil)
		var got page[audit.Event]
		a.as(store.Auditor).do("GET", "/api/v1/audit?limit=5", "").want(t, 200, &got)
		i := slices.IndexFunc(got.Items, func(ev audit.Event) bool { return ev.RequestID == "my-own-request-1" })
		if i < 0 {
			t.Fatalf("no event in %+v", got.Items)
		}
		ev := got.Items[i]
		if ev.Action != "entry.update" || ev.Object != e.ID || !strings.HasPrefix(ev.Actor, "token:") || ev.Outcome != audit.Allowed ||
			!strings.Contains(string(ev.After), `"hint":"main"`) || strings.Contains(string(ev.Before), "hint") {
			t.Errorf("got %+v", ev)
		}
	})
	t.Run("SV-4/delete", func(t *testing.T) {
		a.admin.do("DELETE", path, "").want(t, 204, nil)
		a.admin.do("GET", path, "").want(t, 404, nil)
		a.admin.do("DELETE", path, "").want(t, 404, nil)
	})
}

func TestListing(t *testing.T) {
	w := newWorld(t)
	a := w.newTenant("acme")
	for i := range 7 {
		a.entry(fmt.Sprintf("n%d", i%2), fmt.Sprintf("/svc/%d", i), map[string]any{"selectors": []string{fmt.Sprintf("unix:uid:%d", i%3)}})
	}
	count := func(query string) int {
		t.Helper()
		var got page[identity.Entry]
		a.admin.do("GET", "/api/v1/workloads"+query, "").want(t, 200, &got)
		return len(got.Items)
	}
	t.Run("SV-4/pages hold everything once", func(t *testing.T) {
		seen, next := map[string]bool{}, ""
		for range 10 {
			var got page[identity.Entry]
			a.admin.do("GET", "/api/v1/workloads?limit=3&page="+next, "").want(t, 200, &got)
			for _, e := range got.Items {
				if seen[e.ID] {
					t.Errorf("%s comes twice", e.ID)
				}
				seen[e.ID] = true
			}
			if next = got.Next; next == "" {
				break
			}
		}
		if len(seen) != 7 {
			t.Errorf("%d entries, want 7", len(seen))
		}
	})
	for query, want := range map[string]int{
		"": 7,
		"?parent_id=spiffe://acme.example/agent/n1": 3,
		"?spiffe_id=spiffe://acme.example/svc/4":    1,
		"?selector=unix:uid=2":                      2,
		"?search=svc/5":                             1,
		"?search=absent":                            0,
	} {
		t.Run("SV-4/filter "+query, func(t *testing.T) {
			if got := count(query); got != want {
				t.Errorf("%d entries, want %d", got, want)
			}
		})
	}
}

func TestTenantLimits(t *testing.T) {
	w := newWorld(t)
	a := w.newTenant("acme")
	body := map[string]any{"spiffe_id": a.spiffeID("/long"), "parent_id": a.spiffeID("/agent/n1"), "selectors": []string{"unix:uid:1"}, "ttl": 7200}
	t.Run("CA-7/refused", func(t *testing.T) { a.admin.do("POST", "/api/v1/workloads", doc(body)).want(t, 422, nil) })
	t.Run("CA-7/twin: after max_ttl was raised", func(t *testing.T) {
		a.admin.do("PATCH", "/api/v1/tenants/acme", `{"settings": {"max_ttl": "2h"}}`).want(t, 200, nil)
		a.admin.do("POST", "/api/v1/workloads", doc(body)).want(t, 201, nil)
		var got page[audit.Event]
		a.admin.do("GET", "/api/v1/audit", "").want(t, 200, &got)
		if !slices.ContainsFunc(got.Items, func(ev audit.Event) bool {
			return ev.Action == "tenant.settings" && strings.Contains(string(ev.After), "2h0m0s")
		}) {
			t.Errorf("raising it was not recorded: %+v", got.Items)
		}
	})
	t.Run("any node", func(t *testing.T) {
		delete(body, "parent_id")
		a.admin.do("POST", "/api/v1/workloads", doc(body)).want(t, 400, nil)
		a.admin.do("PATCH", "/api/v1/tenants/acme", `{"settings": {"any_node": true}}`).want(t, 200, nil)
		var free identity.Entry
		a.admin.do("POST", "/api/v1/workloads", doc(body)).want(t, 201, &free)
		var p struct{ ID string }
		if a.admin.do("PATCH", "/api/v1/tenants/acme", `{"settings": {"any_node": false}}`).want(t, 409, &p); p.ID != free.ID {
			t.Errorf("the conflict names %q, want %q", p.ID, free.ID)
		}
		a.admin.do("DELETE", "/api/v1/workloads/"+free.ID, "").want(t, 204, nil)
		a.admin.do("PATCH", "/api/v1/tenants/acme", `{"settings": {"any_node": false}}`).want(t, 200, nil)
	})
}

func TestPolicies(t *testing.T) {
	w := newWorld(t)
	a := w.newTenant("acme")
	path := "/api/v1/policies/web-llm"
	t.Run("SV-12/create and replace", func(t *testing.T) {
		a.admin.do("PUT", path, goodPolicy(a, "llm")).want(t, 201, nil)
		a.admin.do("PUT", path, goodPolicy(a, "llm")).want(t, 200, nil)
		named := strings.Replace(goodPolicy(a, "llm"), "{", `{"name": "web-llm", `, 1)
		var p struct{ ID string }
		if a.admin.do("POST", "/api/v1/policies", named).want(t, 409, &p); p.ID != "web-llm" {
			t.Errorf("the conflict names %q", p.ID)
		}
		var got policy.Policy
		if a.admin.do("GET", path, "").want(t, 200, &got); got.Service != "llm" || got.Name != "web-llm" {
			t.Errorf("got %+v", got)
		}
	})
	evaluate := func(path string) (allowed bool) {
		var got struct {
			Allowed bool
			Reason  string
		}
		a.as(store.Viewer).do("POST", "/api/v1/policies/evaluate", doc(map[string]any{
			"subject": a.spiffeID("/web"), "service": "llm", "method": "GET", "path": path})).want(t, 200, &got)
		if got.Reason == "" {
			t.Error("no reason given")
		}
		return got.Allowed
	}
	t.Run("SV-12/evaluate", func(t *testing.T) {
		if !evaluate("/v1/models") {
			t.Error("denied what the policy allows")
		}
	})
	t.Run("SV-12/delete", func(t *testing.T) {
		a.admin.do("DELETE", path, "").want(t, 204, nil)
		a.admin.do("DELETE", path, "").want(t, 404, nil)
		if evaluate("/v1/models") {
			t.Error("allowed without a policy")
		}
	})
}

// TestPolicyLimits refuses what a gateway could not load with the rest: it would
// go on with the set from before.
func TestPolicyLimits(t *testing.T) {
	w := newWorld(t)
	a := w.newTenant("acme")
	put := func(name string, subjects, paths, pathBytes int) answer {
		p := policy.Policy{Effect: policy.Deny, Service: "llm", Methods: []string{"GET"}}
		for i := range subjects {
			p.Subjects = append(p.Subjects, a.spiffeID(fmt.Sprintf("/s/%d", i)))
		}
		for i := range paths {
			p.Paths = append(p.Paths, fmt.Sprintf("/%d/%s", i, longText(pathBytes)))
		}
		var body map[string]any
		check(t, json.Unmarshal([]byte(doc(p)), &body))
		delete(body, "name")
		return a.admin.do("PUT", "/api/v1/policies/"+name, doc(body))
	}
	t.Run("pairs", func(t *testing.T) {
		put("many", 1000, 700, 1).want(t, 201, nil)
		put("as-many", 1000, 700, 1).want(t, 422, nil)
		put("many", 1000, 800, 1).want(t, 200, nil) // instead of the one before
		put("some", 1000, 200, 1).want(t, 201, nil)
		put("one", 1, 1, 1).want(t, 422, nil)
		a.admin.do("DELETE", "/api/v1/policies/many", "").want(t, 204, nil)
	})
	t.Run("bytes", func(t *testing.T) {
		refused := 0
		for i := range 10 {
			if put(fmt.Sprintf("long-%d", i), 1, 240, 4000).status == 422 {
				refused++
			}
		}
		if refused != 2 { // of 960 kB each, 8 MiB hold eight
			t.Errorf("%d of 10 policies were refused, want 2", refused)
		}
		var got struct{ Items []policy.Policy }
		a.admin.do("GET", "/api/v1/policies", "").want(t, 200, &got)
		if _, err := policy.Compile(got.Items); err != nil || len(got.Items) != 9 {
			t.Errorf("%d policies are stored (%v)", len(got.Items), err)
		}
	})
}

func TestAPITokens(t *testing.T) {
	w := newWorld(t)
	a := w.newTenant("acme")
	var got struct{ ID, Token string }
	a.admin.do("POST", "/api/v1/tokens", `{"name": "ci", "role": "viewer"}`).want(t, 201, &got)
	t.Run("hash at rest", func(t *testing.T) {
		if dump := w.dump(); strings.Contains(dump, got.Token) || !strings.Contains(dump, got.ID) {
			t.Error("the secret is in the store, or the token is not")
		}
		if list := a.admin.do("GET", "/api/v1/tokens", ""); strings.Contains(string(list.body), got.Token) {
			t.Error("the listing shows the secret")
		}
	})
	t.Run("ends at once", func(t *testing.T) {
		w.as(got.Token).do("GET", "/api/v1/workloads", "").want(t, 200, nil)
		a.admin.do("DELETE", "/api/v1/tokens/"+got.ID, "").want(t, 204, nil)
		w.as(got.Token).do("GET", "/api/v1/workloads", "").want(t, 401, nil)
	})
	t.Run("platform's own", func(t *testing.T) {
		root := w.as(w.platform)
		root.do("POST", "/api/v1/tokens", `{"name": "second", "role": "platform-admin"}`).want(t, 201, nil)
		var list page[store.APIToken]
		if root.do("GET", "/api/v1/tokens", "").want(t, 200, &list); len(list.Items) != 2 {
			t.Errorf("got %+v", list.Items)
		}
		var events page[audit.Event]
		if root.do("GET", "/api/v1/audit", "").want(t, 200, &events); len(events.Items) == 0 {
			t.Error("no events of the platform")
		}
	})
}

// TestRequestID covers T-44: what a caller sends as an id must be harmless in logs.
func TestRequestID(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]struct {
		sent string
		kept bool
	}{
		"T-44/twin":      {"abc-123_DEF.4", true},
		"T-44/json":      {`x","level":"info`, false},
		"T-44/escape":    {"\x1b[31mred-red", false},
		"T-44/too long":  {strings.Repeat("a", 65), false},
		"T-44/too short": {"a", false},
	} {
		t.Run(name, func(t *testing.T) {
			req := must(http.NewRequest("GET", w.url+"/healthz", nil))(t)
			req.Header["X-Request-Id"] = []string{c.sent}
			resp, err := w.as("").http.Do(req)
			if err != nil { // the client library refuses to send it
				return
			}
			resp.Body.Close()
			got := resp.Header.Get("X-Request-Id")
			if got == "" || (got == c.sent) != c.kept {
				t.Errorf("sent %q, got %q", c.sent, got)
			}
		})
	}
}
