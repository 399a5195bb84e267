package registry

import (
	"context"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/audit"
)

// NodeID gives the SPIFFE ID of the tenant's agent of that name. A name that no
// agent can have is NotFound.
func (r *Registry) NodeID(ctx context.Context, tenant, name string) (spiffeid.ID, error) {
	t, err := r.store.Tenant(ctx, tenant)
	if err != nil {
		return spiffeid.ID{}, err
	}
	id, err := identity.ParseID("spiffe://" + t.TrustDomain + identity.AgentPath(name))
	if err != nil || !identity.IsAgentPath(id.Path()) {
		return spiffeid.ID{}, identity.Errorf(identity.NotFound, "no agent of that name")
	}
	return id, nil
}

// Node gives one agent by name.
func (r *Registry) Node(ctx context.Context, tenant, name string) (identity.Node, error) {
	id, err := r.NodeID(ctx, tenant, name)
	if err != nil {
		return identity.Node{}, err
	}
	return r.store.Node(ctx, tenant, id.String())
}

// Nodes lists the tenant's agents.
func (r *Registry) Nodes(ctx context.Context, tenant string) ([]identity.Node, error) {
	return r.store.Nodes(ctx, tenant)
}

// BanNode shuts an agent out for good and revokes what was issued through it.
func (r *Registry) BanNode(ctx context.Context, by Caller, tenant, name string) error {
	return r.endNode(ctx, by, tenant, name, "node.ban", r.store.BanNode)
}

// DeleteNode forgets an agent, which must attest anew, and revokes what was
// issued through it.
func (r *Registry) DeleteNode(ctx context.Context, by Caller, tenant, name string) error {
	return r.endNode(ctx, by, tenant, name, "node.delete", r.store.DeleteNode)
}

type nodeChange func(ctx context.Context, tenant, id string, now time.Time, ev audit.Event) error

func (r *Registry) endNode(ctx context.Context, by Caller, tenant, name, action string, change nodeChange) error {
	n, err := r.Node(ctx, tenant, name)
	if err != nil {
		return err
	}
	id := n.ID.String()
	return change(ctx, tenant, id, r.now(), r.event(by, tenant, action, id, n, nil))
}

// Events lists the tenant's audit trail, newest first, older than before (0
// means from the newest), at most limit.
func (r *Registry) Events(ctx context.Context, tenant string, before int64, limit int) ([]audit.Event, error) {
	return r.store.Events(ctx, tenant, before, limit)
}
