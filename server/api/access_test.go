package api_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/authsec-ai/icp/server/api"
	"github.com/authsec-ai/icp/server/store"
)

// callers of the matrix below, one letter each.
const (
	nobody       = "-"
	platform     = "P"
	tenantAdmin  = "T"
	viewer       = "V"
	auditor      = "A"
	theAgent     = "G" // an agent's current SVID
	theGateway   = "W" // a workload with a gateway grant
	someWorkload = "w" // one without
)

const allCallers = nobody + platform + tenantAdmin + viewer + auditor + theAgent + theGateway + someWorkload

// who may pass each route's door.
func matrix() map[string]string {
	const (
		admins   = platform + tenantAdmin
		readers  = admins + viewer
		auditors = admins + auditor
	)
	return map[string]string{
		"GET /healthz":                   allCallers,
		"GET /bundle/:tenant":            allCallers,
		"GET /bundles/:trust_domain":     allCallers,
		"GET /api/v1/workloads":          readers,
		"POST /api/v1/workloads":         admins,
		"GET /api/v1/workloads/:id":      readers,
		"PUT /api/v1/workloads/:id":      admins,
		"PATCH /api/v1/workloads/:id":    admins,
		"DELETE /api/v1/workloads/:id":   admins,
		"GET /api/v1/policies":           readers,
		"POST /api/v1/policies":          admins,
		"POST /api/v1/policies/evaluate": readers,
		"GET /api/v1/policies/:name":     readers,
		"PUT /api/v1/policies/:name":     admins,
		"DELETE /api/v1/policies/:name":  admins,
		"GET /api/v1/agents":             readers,
		"GET /api/v1/agents/:node":       readers,
		"POST /api/v1/agents/:node/ban":  admins,
		"DELETE /api/v1/agents/:node":    admins,
		"GET /api/v1/join-tokens":        admins,
		"POST /api/v1/join-tokens":       admins,
		"DELETE /api/v1/join-tokens/:id": admins,
		"GET /api/v1/tokens":             admins,
		"POST /api/v1/tokens":            admins,
		"DELETE /api/v1/tokens/:id":      admins,
		"GET /api/v1/tenants":            platform,
		"POST /api/v1/tenants":           platform,
		"GET /api/v1/tenants/:tenant":    readers,
		"PATCH /api/v1/tenants/:tenant":  admins,
		"GET /api/v1/audit":              auditors,
		"POST /api/v1/agent/attest":      allCallers,
		"POST /api/v1/agent/renew":       theAgent,
		"GET /api/v1/agent/sync":         theAgent,
		"POST /api/v1/agent/sign":        theAgent,
		"POST /api/v1/agent/sign-jwt":    theAgent,
		"POST /api/v1/workload/attest":   theAgent,
		"GET /api/v1/gateway/policies":   theGateway,
	}
}

// TestAccess sends every caller to every route, under every prefix.
func TestAccess(t *testing.T) {
	w := newWorld(t)
	a := w.newTenant("acme")
	n := a.attest("n1")
	callers := map[string]*client{
		nobody: w.as(""), platform: w.as(w.platform), tenantAdmin: a.admin, viewer: a.as(store.Viewer), auditor: a.as(store.Auditor),
		theAgent: n.client, theGateway: a.workload(n, "/gw", []string{"llm"}), someWorkload: a.workload(n, "/web", nil),
	}
	table := matrix()
	for _, r := range api.Routes() {
		name := r.Method + " " + r.Path
		may, known := table[name]
		if !known {
			t.Errorf("route %s is not in the matrix: say who may use it", name)
			continue
		}
		delete(table, name)
		for caller, c := range callers {
			for _, prefix := range r.UnderEveryPrefix {
				t.Run("SV-6/"+caller+" "+prefix+" "+name, func(t *testing.T) {
					c.expectDoor(t, r.Method, prefix+fill(r.Path, "absent"), strings.Contains(may, caller))
				})
			}
		}
	}
	for name := range table {
		t.Errorf("route %s is in the matrix and not in the API", name)
	}
}

// workload is a client with the SVID of a new entry.
func (tn *tenant) workload(n *node, path string, gateway []string) *client {
	tn.w.t.Helper()
	chain, key, err := n.svid(tn.entry(n.name, path, map[string]any{"gateway": gateway}))
	check(tn.w.t, err)
	return tn.w.withCert(chain, key)
}

// fill puts a value for every parameter of a route's path.
func fill(path, value string) string {
	parts := strings.Split(path, "/")
	for i, p := range parts {
		if strings.HasPrefix(p, ":") {
			parts[i] = value
		}
	}
	return strings.Join(parts, "/")
}

// expectDoor sends a request that does nothing where it passes: its object is
// absent and its body empty.
func (c *client) expectDoor(t *testing.T, method, path string, open bool) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel() // ends streams
	req := must(http.NewRequestWithContext(ctx, method, c.w.url+path, nil))(t)
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp := must(c.http.Do(req))(t)
	resp.Body.Close()
	refused := resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden
	if refused == open || resp.StatusCode >= 500 || resp.StatusCode == http.StatusMethodNotAllowed {
		t.Errorf("status %d, want it open: %v", resp.StatusCode, open)
	}
}
