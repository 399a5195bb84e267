package api

import (
	"net/http"
	"time"

	"github.com/authsec-ai/icp/identity"
)

// agentView is a node with what its times mean now.
type agentView struct {
	identity.Node
	SPIFFEID string `json:"spiffe_id"` // same as id
	Status   string `json:"status"`    // "ok", "stale" (not heard of lately), "expired", "banned"
}

func agentViewOf(n identity.Node, now time.Time) agentView {
	v := agentView{Node: n, SPIFFEID: n.ID.String(), Status: "ok"}
	switch {
	case n.Banned:
		v.Status = "banned"
	case now.After(n.ExpiresAt):
		v.Status = "expired"
	case now.Sub(n.LastSeen) > 2*touchEvery:
		v.Status = "stale"
	}
	return v
}

func (a *API) listAgents(c *call) error {
	tenant, err := c.tenant("")
	if err != nil {
		return err
	}
	nodes, err := a.Registry.Nodes(c.ctx, tenant)
	if err != nil {
		return err
	}
	views := make([]agentView, len(nodes))
	for i, n := range nodes {
		views[i] = agentViewOf(n, a.Now())
	}
	return c.json(http.StatusOK, listOf(views, ""))
}

func (a *API) getAgent(c *call) error {
	tenant, err := c.tenant("")
	if err != nil {
		return err
	}
	n, err := a.Registry.Node(c.ctx, tenant, c.param("node"))
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, agentViewOf(n, a.Now()))
}

func (a *API) banAgent(c *call) error {
	tenant, err := c.tenant("")
	if err != nil {
		return err
	}
	if err := a.Registry.BanNode(c.ctx, c.by(), tenant, c.param("node")); err != nil {
		return err
	}
	return c.done()
}

func (a *API) deleteAgent(c *call) error {
	tenant, err := c.tenant("")
	if err != nil {
		return err
	}
	if err := a.Registry.DeleteNode(c.ctx, c.by(), tenant, c.param("node")); err != nil {
		return err
	}
	return c.done()
}
