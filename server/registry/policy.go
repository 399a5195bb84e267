package registry

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/wire"
	"github.com/authsec-ai/icp/policy"
)

// MaxPolicyBytes bounds the JSON of all policies of a tenant: a gateway gets
// them in one frame, which must have room for revocations, too.
const MaxPolicyBytes = wire.MaxPolicyFrameBytes / 2

// PutPolicy creates or replaces the policy of that name and reports whether it
// is new.
func (r *Registry) PutPolicy(ctx context.Context, by Caller, tenant string, p policy.Policy) (created bool, err error) {
	before, err := r.checkPolicy(ctx, tenant, p)
	if err != nil {
		return false, err
	}
	return r.store.PutPolicy(ctx, tenant, p, r.event(by, tenant, "policy.put", p.Name, before, p))
}

// CreatePolicy is PutPolicy for a name that must be free, else it is a Conflict.
func (r *Registry) CreatePolicy(ctx context.Context, by Caller, tenant string, p policy.Policy) error {
	if _, err := r.checkPolicy(ctx, tenant, p); err != nil {
		return err
	}
	return r.store.CreatePolicy(ctx, tenant, p, r.event(by, tenant, "policy.put", p.Name, nil, p))
}

// checkPolicy refuses a policy that engines would not take, by itself or with
// the tenant's others, and gives the one that it replaces, nil for none. An
// engine that refuses a set keeps the one before, without this policy and
// without all that come later.
func (r *Registry) checkPolicy(ctx context.Context, tenant string, p policy.Policy) (before *policy.Policy, err error) {
	if _, err := policy.Compile([]policy.Policy{p}); err != nil {
		return nil, err
	}
	set, err := r.store.Policies(ctx, tenant)
	if err != nil {
		return nil, err
	}
	if before = find(set, p.Name); before != nil {
		old := *before
		before, set.Policies = &old, slices.DeleteFunc(set.Policies, func(o policy.Policy) bool { return o.Name == p.Name })
	}
	return before, checkSet(append(set.Policies, p))
}

func checkSet(all []policy.Policy) error {
	if err := policy.CheckSize(all); err != nil {
		return identity.Errorf(identity.LimitExceeded, "with the tenant's other policies, %s", identity.MessageOf(err))
	}
	raw, err := json.Marshal(all)
	if err == nil && len(raw) > MaxPolicyBytes {
		err = identity.Errorf(identity.LimitExceeded, "with this one the tenant's policies take %d bytes; the limit is %d", len(raw), MaxPolicyBytes)
	}
	return err
}

// DeletePolicy removes a policy.
func (r *Registry) DeletePolicy(ctx context.Context, by Caller, tenant, name string) error {
	before, err := r.Policy(ctx, tenant, name)
	if err != nil {
		return err
	}
	return r.store.DeletePolicy(ctx, tenant, name, r.event(by, tenant, "policy.delete", name, before, nil))
}

// Policy gives one policy.
func (r *Registry) Policy(ctx context.Context, tenant, name string) (policy.Policy, error) {
	set, err := r.store.Policies(ctx, tenant)
	if err != nil {
		return policy.Policy{}, err
	}
	p := find(set, name)
	if p == nil {
		return policy.Policy{}, identity.Errorf(identity.NotFound, "no policy of that name")
	}
	return *p, nil
}

// Policies gives the tenant's complete set.
func (r *Registry) Policies(ctx context.Context, tenant string) (policy.Set, error) {
	return r.store.Policies(ctx, tenant)
}

// find gives nil if there is none.
func find(set policy.Set, name string) *policy.Policy {
	i := slices.IndexFunc(set.Policies, func(p policy.Policy) bool { return p.Name == name })
	if i < 0 {
		return nil
	}
	return &set.Policies[i]
}

// Evaluate decides about req with the tenant's policies as they are now, and
// changes nothing.
func (r *Registry) Evaluate(ctx context.Context, tenant string, req policy.Request) (policy.Decision, error) {
	set, err := r.store.Policies(ctx, tenant)
	if err != nil {
		return policy.Decision{}, err
	}
	compiled, err := policy.Compile(set.Policies)
	if err != nil {
		return policy.Decision{}, err
	}
	return compiled.Decide(req), nil
}
