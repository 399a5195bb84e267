package api

import (
	"context"
	"fmt"
	"slices"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/wire"
	"github.com/authsec-ai/icp/policy"
	"github.com/authsec-ai/icp/server/authn"
	"github.com/authsec-ai/icp/server/store"
)

// gatewayPolicies keeps one gateway's policies and revocations equal to ours.
func (a *API) gatewayPolicies(c *call) error {
	s, err := c.stream(wire.MaxPolicyFrameBytes)
	if err != nil {
		return err
	}
	defer a.metrics.stream(c.ctx, c.route)()
	f := &gatewayFeed{api: a, gateway: c.principal, out: s}
	at, err := f.reset(c.ctx)
	if err != nil {
		return err
	}
	return a.follow(c.ctx, c.principal.Tenant, at, f)
}

// gatewayFeed is the follower of one gateway. What it may read depends on the
// gateway grant in its entry as that is now.
type gatewayFeed struct {
	api     *API
	gateway authn.Principal
	out     *stream
}

// reset sends the policies and revocations.
func (f *gatewayFeed) reset(ctx context.Context) (store.Cursor, error) {
	t, err := f.api.Store.Tenant(ctx, f.gateway.Tenant)
	if err != nil {
		return store.Cursor{}, err
	}
	return t.Cursor, f.send(ctx, true, true)
}

func (f *gatewayFeed) changed(ctx context.Context, changes []store.Change, _ store.Cursor) error {
	policies, revocations := false, false
	for _, ch := range changes {
		switch {
		case ch.Kind == store.ChangePolicy:
			policies = true
		case ch.Kind == store.ChangeRevocation:
			revocations = true
		case ch.Kind == store.ChangeEntry && ch.Object == f.gateway.Entry.ID:
			policies = true // the grant may be another
		}
	}
	if !policies && !revocations {
		return nil
	}
	if err := f.refresh(ctx); err != nil {
		return err
	}
	return f.send(ctx, policies, revocations)
}

func (f *gatewayFeed) idle(ctx context.Context, _ store.Cursor) error {
	if err := f.refresh(ctx); err != nil {
		return err
	}
	return f.send(ctx, false, false)
}

// refresh reads the caller's entry anew and ends the stream of one that is
// revoked or has lost its grant.
func (f *gatewayFeed) refresh(ctx context.Context) error {
	p, err := f.api.Authn.StillWorkload(ctx, f.gateway)
	if err != nil {
		return err
	}
	f.gateway = p
	return mayReadPolicies(p)
}

func (f *gatewayFeed) send(ctx context.Context, policies, revocations bool) error {
	frame := wire.PolicyFrame{Time: f.api.Now().UTC()}
	if policies {
		set, err := f.api.Store.Policies(ctx, f.gateway.Tenant)
		if err != nil {
			return fmt.Errorf("read policies: %w", err)
		}
		set = scoped(set, f.gateway.Entry.Gateway)
		frame.Policies = &set
	}
	if revocations {
		list, err := f.api.Store.Revocations(ctx, f.gateway.Tenant, f.api.Now())
		if err != nil {
			return fmt.Errorf("read revocations: %w", err)
		}
		if list == nil {
			list = []identity.Revocation{}
		}
		frame.Revocations = &list
	}
	return f.out.send(frame)
}

// scoped leaves the policies of those services.
func scoped(set policy.Set, services []string) policy.Set {
	kept := []policy.Policy{}
	for _, p := range set.Policies {
		if slices.Contains(services, p.Service) {
			kept = append(kept, p)
		}
	}
	set.Policies, set.MinEngine = kept, policy.EngineVersion
	return set
}
