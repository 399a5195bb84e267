package registry

import (
	"context"
	"slices"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/policy"
)

// PutPolicy creates or replaces the policy of that name and reports whether it
// is new.
func (r *Registry) PutPolicy(ctx context.Context, by Caller, tenant string, p policy.Policy) (created bool, err error) {
	if err := compiles(p); err != nil {
		return false, err
	}
	before, err := r.findPolicy(ctx, tenant, p.Name)
	if err != nil {
		return false, err
	}
	return r.store.PutPolicy(ctx, tenant, p, r.event(by, tenant, "policy.put", p.Name, before, p))
}

// CreatePolicy is PutPolicy for a name that must be free, else it is a Conflict.
func (r *Registry) CreatePolicy(ctx context.Context, by Caller, tenant string, p policy.Policy) error {
	if err := compiles(p); err != nil {
		return err
	}
	before, err := r.findPolicy(ctx, tenant, p.Name)
	if err != nil {
		return err
	}
	if before != nil {
		return &identity.Error{Code: identity.Conflict, ID: p.Name,
			Message: "a policy of that name exists; replace it with PUT or choose another name"}
	}
	_, err = r.store.PutPolicy(ctx, tenant, p, r.event(by, tenant, "policy.put", p.Name, nil, p))
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
	p, err := r.findPolicy(ctx, tenant, name)
	if err != nil {
		return policy.Policy{}, err
	}
	if p == nil {
		return policy.Policy{}, identity.Errorf(identity.NotFound, "no policy of that name")
	}
	return *p, nil
}

// Policies gives the tenant's complete set.
func (r *Registry) Policies(ctx context.Context, tenant string) (policy.Set, error) {
	return r.store.Policies(ctx, tenant)
}

// findPolicy gives nil if there is none.
func (r *Registry) findPolicy(ctx context.Context, tenant, name string) (*policy.Policy, error) {
	set, err := r.store.Policies(ctx, tenant)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(set.Policies, func(p policy.Policy) bool { return p.Name == name })
	if i < 0 {
		return nil, nil
	}
	return &set.Policies[i], nil
}

// compiles reports whether engines will take the policy.
func compiles(p policy.Policy) error {
	_, err := policy.Compile([]policy.Policy{p})
	return err
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
