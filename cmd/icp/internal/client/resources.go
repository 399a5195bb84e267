package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/audit"
	"github.com/authsec-ai/icp/policy"
	"github.com/authsec-ai/icp/server/store"
)

const v1 = "/api/v1"

// pageSize is the most that the server gives at once.
const pageSize = 1000

// page is the answer of every listing.
type page[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next"`
}

func (c *Client) get(ctx context.Context, path string, query url.Values, out any) error {
	return c.do(ctx, request{method: http.MethodGet, path: path, query: query}, out)
}

func (c *Client) post(ctx context.Context, path string, body, out any) error {
	return c.do(ctx, request{method: http.MethodPost, path: path, body: body}, out)
}

func (c *Client) delete(ctx context.Context, path string) error {
	return c.do(ctx, request{method: http.MethodDelete, path: path}, nil)
}

// path joins v1, a collection and escaped names.
func path(collection string, names ...string) string {
	p := v1 + "/" + collection
	for _, name := range names {
		p += "/" + url.PathEscape(name)
	}
	return p
}

// EntryFilter narrows Entries; empty fields do not.
type EntryFilter struct {
	SPIFFEID string
	ParentID string
	Selector string
	Search   string // part of the SPIFFE ID
	Limit    int    // 0 for all
}

// Entries gives the tenant's entries, oldest first, however many pages they are.
func (c *Client) Entries(ctx context.Context, f EntryFilter) ([]identity.Entry, error) {
	query := url.Values{"limit": {strconv.Itoa(pageSize)}}
	for name, value := range map[string]string{
		"spiffe_id": f.SPIFFEID, "parent_id": f.ParentID, "selector": f.Selector, "search": f.Search,
	} {
		if value != "" {
			query.Set(name, value)
		}
	}
	all := []identity.Entry{}
	for {
		var p page[identity.Entry]
		if err := c.get(ctx, path("workloads"), query, &p); err != nil {
			return nil, err
		}
		all = append(all, p.Items...)
		if f.Limit > 0 && len(all) >= f.Limit {
			return all[:f.Limit], nil
		}
		if p.Next == "" {
			return all, nil
		}
		query.Set("page", p.Next)
	}
}

// Entry gives one entry.
func (c *Client) Entry(ctx context.Context, id string) (e identity.Entry, err error) {
	err = c.get(ctx, path("workloads", id), nil, &e)
	return e, err
}

// CreateEntry registers a workload.
func (c *Client) CreateEntry(ctx context.Context, spec identity.Spec) (e identity.Entry, err error) {
	err = c.post(ctx, path("workloads"), spec, &e)
	return e, err
}

// PatchEntry sets the fields of an entry's Spec that changes holds, by their
// JSON names, and leaves the others.
func (c *Client) PatchEntry(ctx context.Context, id string, changes map[string]any) (e identity.Entry, err error) {
	err = c.do(ctx, request{method: http.MethodPatch, path: path("workloads", id), body: changes}, &e)
	return e, err
}

// ReplaceEntry sets the whole Spec of an entry that is still at old's revision,
// else it is a Conflict.
func (c *Client) ReplaceEntry(ctx context.Context, old identity.Entry, spec identity.Spec) (e identity.Entry, err error) {
	err = c.do(ctx, request{
		method: http.MethodPut, path: path("workloads", old.ID), body: spec,
		match: strconv.Quote(strconv.FormatInt(old.Revision, 10)),
	}, &e)
	return e, err
}

// DeleteEntry removes an entry and revokes what was issued for it.
func (c *Client) DeleteEntry(ctx context.Context, id string) error {
	return c.delete(ctx, path("workloads", id))
}

// Policies gives the tenant's policies, by name.
func (c *Client) Policies(ctx context.Context) ([]policy.Policy, error) {
	var p page[policy.Policy]
	err := c.get(ctx, path("policies"), nil, &p)
	return p.Items, err
}

// Policy gives one policy.
func (c *Client) Policy(ctx context.Context, name string) (p policy.Policy, err error) {
	err = c.get(ctx, path("policies", name), nil, &p)
	return p, err
}

// PutPolicy creates or replaces a policy.
func (c *Client) PutPolicy(ctx context.Context, p policy.Policy) error {
	return c.do(ctx, request{method: http.MethodPut, path: path("policies", p.Name), body: p}, nil)
}

// DeletePolicy removes a policy.
func (c *Client) DeletePolicy(ctx context.Context, name string) error {
	return c.delete(ctx, path("policies", name))
}

// Question asks what the policies decide.
type Question struct {
	Subject      string            `json:"subject"`
	Service      string            `json:"service"`
	Method       string            `json:"method"`
	Path         string            `json:"path"`
	Model        string            `json:"model,omitempty"`
	Tool         string            `json:"tool,omitempty"`
	SVIDLifetime identity.Duration `json:"svid_lifetime,omitempty"`
}

// Verdict answers a Question.
type Verdict struct {
	Allowed           bool   `json:"allowed"`
	Policy            string `json:"policy"` // that decided, "" for the default
	Reason            string `json:"reason"`
	RequestsPerMinute int    `json:"requests_per_minute,omitempty"`
}

// Evaluate asks the server what its policies decide.
func (c *Client) Evaluate(ctx context.Context, q Question) (v Verdict, err error) {
	err = c.post(ctx, path("policies", "evaluate"), q, &v)
	return v, err
}

// Agent is an attested agent and how it is doing.
type Agent struct {
	identity.Node
	Status string `json:"status"` // "ok", "stale", "expired" or "banned"
}

// Agents gives the tenant's agents.
func (c *Client) Agents(ctx context.Context) ([]Agent, error) {
	var p page[Agent]
	err := c.get(ctx, path("agents"), nil, &p)
	return p.Items, err
}

// Agent gives one agent by its name.
func (c *Client) Agent(ctx context.Context, name string) (a Agent, err error) {
	err = c.get(ctx, path("agents", name), nil, &a)
	return a, err
}

// BanAgent shuts an agent out for good and revokes what was issued through it.
func (c *Client) BanAgent(ctx context.Context, name string) error {
	return c.post(ctx, path("agents", name)+"/ban", nil, nil)
}

// DeleteAgent forgets an agent, which must attest anew.
func (c *Client) DeleteAgent(ctx context.Context, name string) error {
	return c.delete(ctx, path("agents", name))
}

// JoinToken is a join token; Token is its secret, in the answer that made it.
type JoinToken struct {
	store.JoinToken
	Token string `json:"token,omitempty"`
}

// JoinTokens gives the unused join tokens.
func (c *Client) JoinTokens(ctx context.Context) ([]JoinToken, error) {
	var p page[JoinToken]
	err := c.get(ctx, path("join-tokens"), nil, &p)
	return p.Items, err
}

// CreateJoinToken makes the right to attest one node. An empty node name lets
// the agent choose, ttl 0 means the server's default.
func (c *Client) CreateJoinToken(ctx context.Context, nodeName string, ttl time.Duration) (t JoinToken, err error) {
	err = c.post(ctx, path("join-tokens"), map[string]any{"node_name": nodeName, "ttl": identity.Duration(ttl)}, &t)
	return t, err
}

// DeleteJoinToken takes the right back.
func (c *Client) DeleteJoinToken(ctx context.Context, id string) error {
	return c.delete(ctx, path("join-tokens", id))
}

// APIToken is an API token; Token is its secret, in the answer that made it.
type APIToken struct {
	store.APIToken
	Token string `json:"token,omitempty"`
}

// APITokens gives the API tokens.
func (c *Client) APITokens(ctx context.Context) ([]APIToken, error) {
	var p page[APIToken]
	err := c.get(ctx, path("tokens"), nil, &p)
	return p.Items, err
}

// CreateAPIToken makes a bearer token; ttl 0 means the server's default.
func (c *Client) CreateAPIToken(ctx context.Context, name string, role store.Role, ttl time.Duration) (t APIToken, err error) {
	err = c.post(ctx, path("tokens"), map[string]any{"name": name, "role": role, "ttl": identity.Duration(ttl)}, &t)
	return t, err
}

// DeleteAPIToken ends an API token at once.
func (c *Client) DeleteAPIToken(ctx context.Context, id string) error {
	return c.delete(ctx, path("tokens", id))
}

// Tenants gives all tenants; for platform administrators.
func (c *Client) Tenants(ctx context.Context) ([]store.Tenant, error) {
	var p page[store.Tenant]
	err := c.get(ctx, path("tenants"), nil, &p)
	return p.Items, err
}

// CreateTenant makes a tenant with its authorities. An empty trust domain means
// the id.
func (c *Client) CreateTenant(ctx context.Context, id, trustDomain string) (t store.Tenant, err error) {
	err = c.post(ctx, path("tenants"), map[string]any{"id": id, "trust_domain": trustDomain}, &t)
	return t, err
}

// Events gives the newest audit events first, at most limit, those before that
// sequence number (0 for the newest).
func (c *Client) Events(ctx context.Context, before int64, limit int) ([]audit.Event, error) {
	query, all := url.Values{}, []audit.Event{}
	for len(all) < limit {
		query.Set("limit", strconv.Itoa(min(limit-len(all), pageSize)))
		if before > 0 {
			query.Set("before", strconv.FormatInt(before, 10))
		}
		var p page[audit.Event]
		if err := c.get(ctx, path("audit"), query, &p); err != nil {
			return nil, err
		}
		all = append(all, p.Items...)
		if p.Next == "" || len(p.Items) == 0 {
			break
		}
		before = p.Items[len(p.Items)-1].Seq
	}
	return all, nil
}

// Bundle gives a trust domain's SPIFFE bundle document as the server sent it.
// The route is public and knows no tenant_id.
func (c *Client) Bundle(ctx context.Context, trustDomain string) (json.RawMessage, error) {
	public := *c
	public.tenant = ""
	return public.raw(ctx, request{method: http.MethodGet, path: "/bundles/" + url.PathEscape(trustDomain)})
}
