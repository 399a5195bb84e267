package api

import (
	"net/http"

	"github.com/authsec-ai/icp/internal/wire"
	"github.com/authsec-ai/icp/server/store"
)

// Who may use a route.
type access int

const (
	public         access = iota // nobody is asked who they are
	platform                     // PlatformAdmin
	admins                       // PlatformAdmin, TenantAdmin
	readers                      // these and Viewer
	auditors                     // PlatformAdmin, TenantAdmin and Auditor
	agent                        // an agent, by the current SVID of its node
	returningAgent               // an agent, whose SVID may have expired
	gateway                      // a workload whose entry has a gateway grant
)

// roles lists who passes, for the kinds of access that need an API token.
func (a access) roles() []store.Role {
	switch a {
	case platform:
		return []store.Role{store.PlatformAdmin}
	case admins:
		return []store.Role{store.PlatformAdmin, store.TenantAdmin}
	case readers:
		return []store.Role{store.PlatformAdmin, store.TenantAdmin, store.Viewer}
	case auditors:
		return []store.Role{store.PlatformAdmin, store.TenantAdmin, store.Auditor}
	}
	return nil
}

// route is one row of the table below.
type route struct {
	method string
	path   string
	access access
	query  []string // parameters it knows; token routes know tenant_id besides
	body   body
	handle func(*call) error
}

// prefixes under which every route is served; the second is the public name of
// this service at AuthSec.
func prefixes() []string { return []string{"", "/spiresvc"} }

// routes is the whole API: what there is, and who may use it.
func (a *API) routes() []route {
	const (
		get, post, put, patch, del = http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete
		v1                         = "/api/v1"
	)
	page := []string{"spiffe_id", "parent_id", "selector", "search", "limit", "page"}
	return []route{
		{get, "/healthz", public, nil, none, a.health},
		{get, "/bundle/:tenant", public, nil, none, a.caBundle},
		{get, "/bundles/:trust_domain", public, nil, none, a.spiffeBundle},

		{get, v1 + "/workloads", readers, page, none, a.listEntries},
		{post, v1 + "/workloads", admins, nil, curlDefault, a.createEntry},
		{get, v1 + "/workloads/:id", readers, nil, none, a.getEntry},
		{put, v1 + "/workloads/:id", admins, nil, strict, a.replaceEntry},
		{patch, v1 + "/workloads/:id", admins, nil, strict, a.patchEntry},
		{del, v1 + "/workloads/:id", admins, nil, none, a.deleteEntry},

		{get, v1 + "/policies", readers, nil, none, a.listPolicies},
		{post, v1 + "/policies", admins, nil, strict, a.createPolicy},
		{post, v1 + "/policies/evaluate", readers, nil, strict, a.evaluatePolicies},
		{get, v1 + "/policies/:name", readers, nil, none, a.getPolicy},
		{put, v1 + "/policies/:name", admins, nil, strict, a.putPolicy},
		{del, v1 + "/policies/:name", admins, nil, none, a.deletePolicy},

		{get, v1 + "/agents", readers, nil, none, a.listAgents},
		{get, v1 + "/agents/:node", readers, nil, none, a.getAgent},
		{post, v1 + "/agents/:node/ban", admins, nil, none, a.banAgent},
		{del, v1 + "/agents/:node", admins, nil, none, a.deleteAgent},

		{get, v1 + "/join-tokens", admins, nil, none, a.listJoinTokens},
		{post, v1 + "/join-tokens", admins, nil, strict, a.createJoinToken},
		{del, v1 + "/join-tokens/:id", admins, nil, none, a.deleteJoinToken},

		{get, v1 + "/tokens", admins, nil, none, a.listAPITokens},
		{post, v1 + "/tokens", admins, nil, strict, a.createAPIToken},
		{del, v1 + "/tokens/:id", admins, nil, none, a.deleteAPIToken},

		{get, v1 + "/tenants", platform, nil, none, a.listTenants},
		{post, v1 + "/tenants", platform, nil, strict, a.createTenant},
		{get, v1 + "/tenants/:tenant", readers, nil, none, a.getTenant},
		{patch, v1 + "/tenants/:tenant", admins, nil, strict, a.updateTenant},

		{get, v1 + "/audit", auditors, []string{"before", "limit"}, none, a.listEvents},

		{post, wire.PathAttest, public, nil, stranger, a.attest},
		{post, wire.PathRenew, returningAgent, nil, tolerant, a.renew},
		{get, wire.PathSync, agent, []string{"epoch", "revision"}, none, a.sync},
		{post, wire.PathSign, agent, nil, tolerant, a.sign},
		{post, wire.PathSignJWT, agent, nil, tolerant, a.signJWT},
		{post, v1 + "/workload/attest", agent, nil, tolerant, a.attestWorkload},

		{get, wire.PathGateway, gateway, nil, none, a.gatewayPolicies},
	}
}
