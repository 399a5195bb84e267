package ca

import (
	"context"
	"encoding/hex"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/csr"
	"github.com/authsec-ai/icp/server/store"
)

// AgentSVID is an agent's certificate, not yet on record.
type AgentSVID struct {
	Chain     [][]byte // DER: leaf, node issuer
	Serial    string   // lower-case hex
	SPKI      []byte   // SHA-256 of the agent's public key
	NotBefore time.Time
	ExpiresAt time.Time
}

// SignAgent makes an agent's certificate under the tenant's node anchor, for
// the key of the signing request. The caller has attested the agent, and puts
// the certificate on record before it is released.
func (c *CA) SignAgent(ctx context.Context, tenant string, id spiffeid.ID, csrDER []byte) (AgentSVID, error) {
	begin := c.now().UTC()
	svid, err := c.signAgent(ctx, tenant, id, csrDER, begin.Truncate(time.Second))
	c.metrics.count(ctx, identity.Agent, err)
	c.metrics.time(ctx, identity.Agent, c.now().Sub(begin))
	return svid, err
}

func (c *CA) signAgent(ctx context.Context, tenant string, id spiffeid.ID, csrDER []byte, now time.Time) (AgentSVID, error) {
	key, spki, err := csr.Parse(csrDER)
	if err != nil {
		return AgentSVID{}, err
	}
	v, err := c.look(ctx, tenant)
	if err != nil {
		return AgentSVID{}, err
	}
	if id.TrustDomain() != v.domain || !identity.IsAgentPath(id.Path()) {
		return AgentSVID{}, identity.Errorf(identity.Denied, "%s is not the ID of an agent in trust domain %s", id, v.domain.Name())
	}
	if v.isAuthorityKey(spki) {
		return AgentSVID{}, identity.Errorf(identity.Invalid, "the key of the signing request belongs to a certificate authority")
	}
	svid := AgentSVID{SPKI: spki, NotBefore: now.Add(-x509Backdate), ExpiresAt: now.Add(agentTTL)}
	signer, err := c.signer(ctx, v, store.NodeIssuer, svid.ExpiresAt)
	if err != nil {
		return AgentSVID{}, err
	}
	serial, err := c.newSerial()
	if err != nil {
		return AgentSVID{}, unavailable("make a serial number", err)
	}
	svid.Serial = hex.EncodeToString(serial)
	svid.Chain, err = signer.signX509(leaf{id: id, serial: serial, notBefore: svid.NotBefore, notAfter: svid.ExpiresAt, key: key})
	if err != nil {
		return AgentSVID{}, unavailable("sign", err)
	}
	return svid, nil
}
