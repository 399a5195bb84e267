package registry

import (
	"context"
	"slices"
	"time"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/server/secret"
	"github.com/authsec-ai/icp/server/store"
)

// Lifetimes of join tokens and API tokens.
const (
	DefaultJoinTokenTTL = time.Hour
	MaxJoinTokenTTL     = 7 * 24 * time.Hour
	DefaultAPITokenTTL  = 30 * 24 * time.Hour
	MaxAPITokenTTL      = 366 * 24 * time.Hour
)

// CreateJoinToken makes the right to attest one node, and gives its secret,
// which is shown this once. An empty node name lets the agent choose.
func (r *Registry) CreateJoinToken(ctx context.Context, by Caller, tenant, nodeName string, ttl time.Duration) (store.JoinToken, string, error) {
	if nodeName != "" {
		if err := CheckNodeName(nodeName); err != nil {
			return store.JoinToken{}, "", err
		}
	}
	ttl, err := tokenTTL(ttl, DefaultJoinTokenTTL, MaxJoinTokenTTL)
	if err != nil {
		return store.JoinToken{}, "", err
	}
	id, text, hash, err := r.newSecret(secret.JoinToken)
	if err != nil {
		return store.JoinToken{}, "", err
	}
	now := r.now().UTC()
	t := store.JoinToken{ID: id, Tenant: tenant, Hash: hash, NodeName: nodeName, ExpiresAt: now.Add(ttl), CreatedAt: now}
	if err := r.store.CreateJoinToken(ctx, t, r.event(by, tenant, "join_token.create", id, nil, t)); err != nil {
		return store.JoinToken{}, "", err
	}
	return t, text, nil
}

// CheckNodeName accepts a name that can be the last segment of an agent's ID.
func CheckNodeName(name string) error {
	if !isName(name) {
		return identity.Errorf(identity.Invalid, "node name %q must be one path segment: 1 to 128 letters, digits, '.', '_' or '-'", identity.Clip(name))
	}
	return nil
}

// JoinTokens lists a tenant's unused join tokens.
func (r *Registry) JoinTokens(ctx context.Context, tenant string) ([]store.JoinToken, error) {
	return r.store.JoinTokens(ctx, tenant)
}

// DeleteJoinToken takes the right back.
func (r *Registry) DeleteJoinToken(ctx context.Context, by Caller, tenant, id string) error {
	return r.store.DeleteJoinToken(ctx, tenant, id, r.event(by, tenant, "join_token.delete", id, nil, nil))
}

// CreateAPIToken makes a bearer token and gives its secret, which is shown this
// once. A PlatformAdmin token belongs to no tenant, every other to one.
func (r *Registry) CreateAPIToken(ctx context.Context, by Caller, tenant, name string, role store.Role, ttl time.Duration) (store.APIToken, string, error) {
	if err := checkAPIToken(tenant, name, role); err != nil {
		return store.APIToken{}, "", err
	}
	ttl, err := tokenTTL(ttl, DefaultAPITokenTTL, MaxAPITokenTTL)
	if err != nil {
		return store.APIToken{}, "", err
	}
	id, text, hash, err := r.newSecret(secret.APIToken)
	if err != nil {
		return store.APIToken{}, "", err
	}
	now := r.now().UTC()
	t := store.APIToken{ID: id, Tenant: tenant, Role: role, Name: name, Hash: hash, ExpiresAt: now.Add(ttl), CreatedAt: now}
	if err := r.store.CreateAPIToken(ctx, t, r.event(by, tenant, "api_token.create", id, nil, t)); err != nil {
		return store.APIToken{}, "", err
	}
	return t, text, nil
}

func checkAPIToken(tenant, name string, role store.Role) error {
	tenantRoles := []store.Role{store.TenantAdmin, store.Viewer, store.Auditor}
	switch {
	case !isName(name):
		return identity.Errorf(identity.Invalid, "token name %q must be 1 to 128 letters, digits, '.', '_' or '-'", identity.Clip(name))
	case role == store.PlatformAdmin && tenant != "":
		return identity.Errorf(identity.Invalid, "a %s token belongs to no tenant; leave tenant_id out", role)
	case role != store.PlatformAdmin && !slices.Contains(tenantRoles, role):
		return identity.Errorf(identity.Invalid, "role %q is not known; choose one of %v", identity.Clip(string(role)), tenantRoles)
	case role != store.PlatformAdmin && tenant == "":
		return identity.Errorf(identity.Invalid, "a %s token belongs to a tenant; name it in tenant_id", role)
	}
	return nil
}

// APITokens lists a tenant's API tokens; "" lists the platform's.
func (r *Registry) APITokens(ctx context.Context, tenant string) ([]store.APIToken, error) {
	return r.store.APITokens(ctx, tenant)
}

// DeleteAPIToken ends an API token at once.
func (r *Registry) DeleteAPIToken(ctx context.Context, by Caller, tenant, id string) error {
	return r.store.DeleteAPIToken(ctx, tenant, id, r.event(by, tenant, "api_token.delete", id, nil, nil))
}

func (r *Registry) newSecret(prefix string) (id, text string, hash []byte, err error) {
	if id, err = secret.NewID(r.random, ""); err != nil {
		return "", "", nil, err
	}
	text, hash, err = secret.New(r.random, prefix)
	return id, text, hash, err
}

func tokenTTL(ttl, unset, limit time.Duration) (time.Duration, error) {
	switch {
	case ttl == 0:
		return unset, nil
	case ttl < time.Second:
		return 0, identity.Errorf(identity.Invalid, "ttl %s is too short; the least is 1s", ttl)
	case ttl > limit:
		return 0, identity.Errorf(identity.LimitExceeded, "ttl %s is over the limit of %s for this kind of token", ttl, limit)
	}
	return ttl, nil
}
