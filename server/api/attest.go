package api

import (
	"net/http"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/wire"
	"github.com/authsec-ai/icp/server/nodes"
)

// attest lets a node in for the first time. The caller has no identity yet; the
// evidence is what it is known by.
func (a *API) attest(c *call) error {
	var in wire.AttestRequest
	if err := c.bind(&in); err != nil {
		return err
	}
	if len(in.CSR) == 0 {
		return missingCSR()
	}
	got, err := a.Nodes.Attest(c.ctx, nodes.Request{
		Method:   in.Method,
		Evidence: nodes.Evidence{Token: in.Token, NodeName: in.NodeID, Data: in.Data},
		CSR:      in.CSR, RequestID: c.requestID,
	})
	a.metrics.attestation(c.ctx, "attest", err)
	if err != nil {
		return err
	}
	return a.answerAttested(c, got)
}

// renew gives an agent that comes back a new SVID.
func (a *API) renew(c *call) error {
	var in wire.RenewRequest
	if err := c.bind(&in); err != nil {
		return err
	}
	if len(in.CSR) == 0 {
		return missingCSR()
	}
	got, err := a.Nodes.Renew(c.ctx, c.principal.Node, c.principal.Serial, in.CSR, c.requestID)
	a.metrics.attestation(c.ctx, "renew", err)
	if err != nil {
		return err
	}
	return a.answerAttested(c, got)
}

func missingCSR() error {
	return identity.Errorf(identity.Invalid, "csr is missing; send a PKCS #10 request in DER, base64 encoded, for the key that stays on the node")
}

func (a *API) answerAttested(c *call, got nodes.Attested) error {
	b, err := a.CA.Bundle(c.ctx, got.Tenant.ID)
	if err != nil {
		return err
	}
	raw, err := b.Marshal()
	if err != nil {
		return err
	}
	id, chain := got.Node.ID.String(), chainPEM(got.SVID.Chain)
	return c.json(http.StatusOK, wire.AttestResponse{
		AgentID: id, SPIFFEID: id, Tenant: got.Tenant.ID, TrustDomain: got.Tenant.TrustDomain,
		Certificate: chain, SVID: chain, CABundle: anchorsPEM(b), Bundle: raw,
		TTL: int64(got.SVID.ExpiresAt.Sub(a.Now()).Seconds()), ExpiresAt: got.SVID.ExpiresAt,
	})
}
