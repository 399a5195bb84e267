package api

import (
	"net/http"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/policy"
)

// policyBody is a policy as an administrator writes it.
type policyBody struct {
	TenantID string `json:"tenant_id"`
	policy.Policy
}

func (a *API) listPolicies(c *call) error {
	tenant, err := c.tenant("")
	if err != nil {
		return err
	}
	set, err := a.Registry.Policies(c.ctx, tenant)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, listOf(set.Policies, ""))
}

func (a *API) getPolicy(c *call) error {
	tenant, err := c.tenant("")
	if err != nil {
		return err
	}
	p, err := a.Registry.Policy(c.ctx, tenant, c.param("name"))
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, p)
}

func (a *API) createPolicy(c *call) error {
	var in policyBody
	if err := c.bind(&in); err != nil {
		return err
	}
	tenant, err := c.tenant(in.TenantID)
	if err != nil {
		return err
	}
	if err := a.Registry.CreatePolicy(c.ctx, c.by(), tenant, in.Policy); err != nil {
		return err
	}
	c.ec.Response().Header().Set("Location", "/api/v1/policies/"+in.Name)
	return c.json(http.StatusCreated, in.Policy)
}

// putPolicy takes the name from the path; the body may repeat it.
func (a *API) putPolicy(c *call) error {
	var in policyBody
	if err := c.bind(&in); err != nil {
		return err
	}
	tenant, err := c.tenant(in.TenantID)
	if err != nil {
		return err
	}
	if in.Name != "" && in.Name != c.param("name") {
		return identity.Errorf(identity.Invalid, "name %q in the body is not the one in the path", identity.Clip(in.Name))
	}
	in.Name = c.param("name")
	created, err := a.Registry.PutPolicy(c.ctx, c.by(), tenant, in.Policy)
	if err != nil {
		return err
	}
	if created {
		return c.json(http.StatusCreated, in.Policy)
	}
	return c.json(http.StatusOK, in.Policy)
}

func (a *API) deletePolicy(c *call) error {
	tenant, err := c.tenant("")
	if err != nil {
		return err
	}
	if err := a.Registry.DeletePolicy(c.ctx, c.by(), tenant, c.param("name")); err != nil {
		return err
	}
	return c.done()
}

// evaluateBody asks what the policies would decide.
type evaluateBody struct {
	TenantID     string            `json:"tenant_id"`
	Subject      string            `json:"subject"`
	Service      string            `json:"service"`
	Method       string            `json:"method"`
	Path         string            `json:"path"`
	Model        string            `json:"model"`
	Tool         string            `json:"tool"`
	SVIDLifetime identity.Duration `json:"svid_lifetime"`
}

// evaluation is the answer to evaluateBody.
type evaluation struct {
	Allowed           bool   `json:"allowed"`
	Policy            string `json:"policy"` // that decided; "" for the default
	Reason            string `json:"reason"`
	RequestsPerMinute int    `json:"requests_per_minute,omitempty"`
}

func (a *API) evaluatePolicies(c *call) error {
	var in evaluateBody
	if err := c.bind(&in); err != nil {
		return err
	}
	tenant, err := c.tenant(in.TenantID)
	if err != nil {
		return err
	}
	subject, err := identity.ParseWorkloadID(in.Subject)
	if err != nil {
		return err
	}
	d, err := a.Registry.Evaluate(c.ctx, tenant, policy.Request{
		Subject: subject, Service: in.Service, Method: in.Method, Path: in.Path,
		Model: in.Model, Tool: in.Tool, SVIDLifetime: in.SVIDLifetime,
	})
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, evaluation{d.Allowed, d.Policy, d.Reason, d.RequestsPerMinute})
}
