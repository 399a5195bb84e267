package registry

import (
	"context"
	"fmt"
	"time"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/server/store"
)

// MaxTTLCeiling is the longest max_ttl that a tenant may set.
const MaxTTLCeiling = 24 * time.Hour

// CreateTenant makes a tenant with its signing authorities. An empty trust
// domain means the tenant's id.
func (r *Registry) CreateTenant(ctx context.Context, by Caller, id, trustDomain string, s store.Settings) (store.Tenant, error) {
	if !isLabel(id) {
		return store.Tenant{}, identity.Errorf(identity.Invalid, "tenant id %q must be 1 to 63 lower-case letters, digits or '-', and start and end with a letter or digit", identity.Clip(id))
	}
	if trustDomain == "" {
		trustDomain = id
	}
	if _, err := identity.ParseTrustDomain(trustDomain); err != nil {
		return store.Tenant{}, err
	}
	if err := checkSettings(s); err != nil {
		return store.Tenant{}, err
	}
	t := store.Tenant{ID: id, TrustDomain: trustDomain, Settings: s, CreatedAt: r.now().UTC()}
	ev := r.event(by, id, "tenant.create", id, nil, map[string]any{"trust_domain": trustDomain, "settings": s})
	if err := r.ca.CreateTenant(ctx, t, ev); err != nil {
		return store.Tenant{}, err
	}
	return r.store.Tenant(ctx, id)
}

// UpdateSettings replaces a tenant's defaults and limits.
func (r *Registry) UpdateSettings(ctx context.Context, by Caller, tenant string, s store.Settings) (store.Tenant, error) {
	if err := checkSettings(s); err != nil {
		return store.Tenant{}, err
	}
	old, err := r.store.Tenant(ctx, tenant)
	if err != nil {
		return store.Tenant{}, err
	}
	if old.Settings.AnyNode && !s.AnyNode {
		if err := r.checkAllHaveParents(ctx, tenant); err != nil {
			return store.Tenant{}, err
		}
	}
	ev := r.event(by, tenant, "tenant.settings", tenant, old.Settings, s)
	if err := r.store.UpdateSettings(ctx, tenant, s, ev); err != nil {
		return store.Tenant{}, err
	}
	return r.store.Tenant(ctx, tenant)
}

// checkAllHaveParents refuses to take any_node back while there are entries that
// every agent still gets SVIDs for.
func (r *Registry) checkAllHaveParents(ctx context.Context, tenant string) error {
	free, _, err := r.store.EntriesByParent(ctx, tenant, "")
	if err != nil || len(free) == 0 {
		return err
	}
	return &identity.Error{Code: identity.Conflict, ID: free[0].ID,
		Message: fmt.Sprintf("%d entries have no parent, and any agent may ask for them; give each a parent_id or delete it first", len(free))}
}

// Tenant gives one tenant.
func (r *Registry) Tenant(ctx context.Context, id string) (store.Tenant, error) {
	return r.store.Tenant(ctx, id)
}

// Tenants lists every tenant; only the platform's own administrators may see that.
func (r *Registry) Tenants(ctx context.Context) ([]store.Tenant, error) { return r.store.Tenants(ctx) }

func checkSettings(s store.Settings) error {
	if err := checkLifetime("max_ttl", time.Duration(s.MaxTTL), MaxTTLCeiling); err != nil {
		return identity.Errorf(identity.Invalid, "max_ttl %s must be a whole number of seconds from %s to %s", time.Duration(s.MaxTTL), MinTTL, MaxTTLCeiling)
	}
	if err := checkLifetime("ttl", time.Duration(s.TTL), maxTTL(s)); err != nil {
		return err
	}
	return checkRenewAt(s.RenewAt)
}
