package api

import (
	"net/http"
	"strconv"

	"github.com/authsec-ai/icp/internal/audit"
	"github.com/authsec-ai/icp/server/store"
)

// tenantBody asks for a tenant.
type tenantBody struct {
	ID          string         `json:"id"`
	TrustDomain string         `json:"trust_domain"` // "" means the id
	Settings    store.Settings `json:"settings"`
}

func (a *API) createTenant(c *call) error {
	var in tenantBody
	if err := c.bind(&in); err != nil {
		return err
	}
	t, err := a.Registry.CreateTenant(c.ctx, c.by(), in.ID, in.TrustDomain, in.Settings)
	if err != nil {
		return err
	}
	c.ec.Response().Header().Set("Location", "/api/v1/tenants/"+t.ID)
	return c.json(http.StatusCreated, t)
}

func (a *API) listTenants(c *call) error {
	tenants, err := a.Registry.Tenants(c.ctx)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, listOf(tenants, ""))
}

func (a *API) getTenant(c *call) error {
	tenant, err := c.tenant(c.param("tenant"))
	if err != nil {
		return err
	}
	t, err := a.Registry.Tenant(c.ctx, tenant)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, t)
}

// settingsBody changes those settings that it names; null unsets one.
type settingsBody struct {
	Settings store.Settings `json:"settings"`
}

func (a *API) updateTenant(c *call) error {
	tenant, err := c.tenant(c.param("tenant"))
	if err != nil {
		return err
	}
	old, err := a.Registry.Tenant(c.ctx, tenant)
	if err != nil {
		return err
	}
	raw, err := c.read()
	if err != nil {
		return err
	}
	var in settingsBody
	if err := c.route.body.decodePatch(settingsBody{Settings: old.Settings}, raw, &in); err != nil {
		return err
	}
	t, err := a.Registry.UpdateSettings(c.ctx, c.by(), tenant, in.Settings)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, t)
}

const defaultEvents = 100 // in one page of the audit trail

func (a *API) listEvents(c *call) error {
	tenant, err := c.tenantOrPlatform("")
	if err != nil {
		return err
	}
	before, err := c.number("before", 1<<62)
	if err != nil {
		return err
	}
	limit, err := c.number("limit", 1000)
	if err != nil {
		return err
	}
	if limit == 0 {
		limit = defaultEvents
	}
	events, err := a.Registry.Events(c.ctx, tenant, before, int(limit))
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, listOf(events, nextEvents(events, int(limit))))
}

func nextEvents(events []audit.Event, limit int) string {
	if len(events) < limit {
		return ""
	}
	return strconv.FormatInt(events[len(events)-1].Seq, 10)
}
