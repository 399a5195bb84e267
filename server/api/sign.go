package api

import (
	"encoding/base64"
	"encoding/pem"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/wire"
)

func (a *API) sign(c *call) error {
	var in wire.SignRequest
	if err := c.bind(&in); err != nil {
		return err
	}
	if err := checkBatch(len(in.Items)); err != nil {
		return err
	}
	p := c.principal
	results := a.CA.SignWorkloads(c.ctx, p.Tenant, p.SPIFFEID.String(), in.Items)
	return c.json(http.StatusOK, wire.SignResponse{Results: results})
}

func (a *API) signJWT(c *call) error {
	var in wire.SignJWTRequest
	if err := c.bind(&in); err != nil {
		return err
	}
	if err := checkBatch(len(in.Items)); err != nil {
		return err
	}
	p := c.principal
	results := a.CA.SignJWTs(c.ctx, p.Tenant, p.SPIFFEID.String(), in.Items)
	return c.json(http.StatusOK, wire.SignJWTResponse{Results: results})
}

func checkBatch(n int) error {
	switch {
	case n == 0:
		return identity.Errorf(identity.Invalid, "items are missing; send at least one")
	case n > wire.MaxBatch:
		return identity.Errorf(identity.TooLarge, "%d items are too many for one request; the limit is %d", n, wire.MaxBatch)
	}
	return nil
}

// attestWorkloadBody asks for the SVID of whatever entry the selectors match:
// the form of programs that know no entries.
type attestWorkloadBody struct {
	TenantID  string             `json:"tenant_id"`
	AgentID   string             `json:"agent_id"`
	Selectors identity.Selectors `json:"selectors"`
	CSR       string             `json:"csr"` // PEM, or DER in base64
}

// attestWorkloadAnswer has each thing under every name that callers use.
type attestWorkloadAnswer struct {
	SPIFFEID    string    `json:"spiffe_id"`
	Certificate string    `json:"certificate"`
	SVID        string    `json:"svid"`
	TrustBundle string    `json:"trust_bundle"`
	CABundle    string    `json:"ca_bundle"`
	TTL         int64     `json:"ttl"`
	ExpiresAt   time.Time `json:"expires_at"`
}

func (a *API) attestWorkload(c *call) error {
	var in attestWorkloadBody
	if err := c.bind(&in); err != nil {
		return err
	}
	if err := c.checkSelf(in.TenantID, in.AgentID); err != nil {
		return err
	}
	csr, err := decodeCSR(in.CSR)
	if err != nil {
		return err
	}
	e, err := a.match(c, in.Selectors)
	if err != nil {
		return err
	}
	p := c.principal
	item := wire.SignItem{RequestID: c.requestID, EntryID: e.ID, EntryRevision: e.Revision, Selectors: in.Selectors, CSR: csr}
	result := a.CA.SignWorkloads(c.ctx, p.Tenant, p.SPIFFEID.String(), []wire.SignItem{item})[0]
	if result.Error != nil {
		return result.Error.Err()
	}
	b, err := a.CA.Bundle(c.ctx, p.Tenant)
	if err != nil {
		return err
	}
	chain, anchors := chainPEM(result.Chain), anchorsPEM(b)
	return c.json(http.StatusOK, attestWorkloadAnswer{
		SPIFFEID: e.SPIFFEID.String(), Certificate: chain, SVID: chain, TrustBundle: anchors, CABundle: anchors,
		TTL: int64(result.ExpiresAt.Sub(a.Now()).Seconds()), ExpiresAt: result.ExpiresAt,
	})
}

// checkSelf refuses a request that says it comes from another agent than the
// one that proved itself.
func (c *call) checkSelf(tenant, agentID string) error {
	if _, err := c.tenant(tenant); err != nil {
		return err
	}
	if agentID != "" && agentID != c.principal.SPIFFEID.String() {
		return identity.Errorf(identity.Denied, "agent_id is not the agent of this connection, %s", c.principal.SPIFFEID)
	}
	return nil
}

func decodeCSR(text string) ([]byte, error) {
	if text == "" {
		return nil, missingCSR()
	}
	if strings.HasPrefix(text, "-----BEGIN") {
		block, rest := pem.Decode([]byte(text))
		if block == nil || len(strings.TrimSpace(string(rest))) > 0 {
			return nil, identity.Errorf(identity.Invalid, "csr is not one PEM block")
		}
		return block.Bytes, nil
	}
	der, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, identity.Errorf(identity.Invalid, "csr is neither PEM nor base64")
	}
	return der, nil
}

// match finds the entry of this agent that says most about the workload: the
// one with the most selectors, of several the oldest.
func (a *API) match(c *call, selectors identity.Selectors) (identity.Entry, error) {
	entries, _, err := a.entriesOf(c.ctx, c.principal)
	if err != nil {
		return identity.Entry{}, err
	}
	entries = slices.DeleteFunc(entries, func(e identity.Entry) bool { return !selectors.Contains(e.Selectors) })
	if len(entries) == 0 {
		return identity.Entry{}, identity.Errorf(identity.Denied, "no entry of this agent matches the selectors; register the workload first")
	}
	return slices.MaxFunc(entries, func(x, y identity.Entry) int { return len(x.Selectors) - len(y.Selectors) }), nil
}
