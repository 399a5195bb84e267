package api

import (
	"net/http"
	"time"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/server/store"
)

// joinTokenBody asks for a join token.
type joinTokenBody struct {
	TenantID string            `json:"tenant_id"`
	NodeName string            `json:"node_name"` // "" lets the agent choose
	TTL      identity.Duration `json:"ttl"`       // 0 means one hour
}

// newJoinToken is the one answer that shows a join token's secret.
type newJoinToken struct {
	store.JoinToken
	Token string `json:"token"`
}

func (a *API) createJoinToken(c *call) error {
	var in joinTokenBody
	if err := c.bind(&in); err != nil {
		return err
	}
	tenant, err := c.tenant(in.TenantID)
	if err != nil {
		return err
	}
	t, text, err := a.Registry.CreateJoinToken(c.ctx, c.by(), tenant, in.NodeName, time.Duration(in.TTL))
	if err != nil {
		return err
	}
	return c.json(http.StatusCreated, newJoinToken{t, text})
}

func (a *API) listJoinTokens(c *call) error {
	tenant, err := c.tenant("")
	if err != nil {
		return err
	}
	tokens, err := a.Registry.JoinTokens(c.ctx, tenant)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, listOf(tokens, ""))
}

func (a *API) deleteJoinToken(c *call) error {
	tenant, err := c.tenant("")
	if err != nil {
		return err
	}
	if err := a.Registry.DeleteJoinToken(c.ctx, c.by(), tenant, c.param("id")); err != nil {
		return err
	}
	return c.done()
}

// apiTokenBody asks for an API token.
type apiTokenBody struct {
	TenantID string            `json:"tenant_id"`
	Name     string            `json:"name"`
	Role     store.Role        `json:"role"`
	TTL      identity.Duration `json:"ttl"` // 0 means 30 days
}

// newAPIToken is the one answer that shows an API token's secret.
type newAPIToken struct {
	store.APIToken
	Token string `json:"token"`
}

func (a *API) createAPIToken(c *call) error {
	var in apiTokenBody
	if err := c.bind(&in); err != nil {
		return err
	}
	tenant, err := c.tenantOrPlatform(in.TenantID)
	if err != nil {
		return err
	}
	if in.Role == store.PlatformAdmin && c.principal.Role != store.PlatformAdmin {
		return identity.Errorf(identity.Denied, "role %s may not give the role %s", c.principal.Role, in.Role)
	}
	t, text, err := a.Registry.CreateAPIToken(c.ctx, c.by(), tenant, in.Name, in.Role, time.Duration(in.TTL))
	if err != nil {
		return err
	}
	return c.json(http.StatusCreated, newAPIToken{t, text})
}

func (a *API) listAPITokens(c *call) error {
	tenant, err := c.tenantOrPlatform("")
	if err != nil {
		return err
	}
	tokens, err := a.Registry.APITokens(c.ctx, tenant)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, listOf(tokens, ""))
}

func (a *API) deleteAPIToken(c *call) error {
	tenant, err := c.tenantOrPlatform("")
	if err != nil {
		return err
	}
	if err := a.Registry.DeleteAPIToken(c.ctx, c.by(), tenant, c.param("id")); err != nil {
		return err
	}
	return c.done()
}
