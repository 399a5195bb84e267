package api

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
)

func (a *API) health(c *call) error {
	return c.json(http.StatusOK, map[string]string{"status": "ok"})
}

// caBundle gives a tenant's anchors as PEM. Anchors are public: they let one
// verify and nothing else.
func (a *API) caBundle(c *call) error {
	t, err := a.Store.Tenant(c.ctx, c.param("tenant"))
	if err != nil {
		return err
	}
	b, err := a.CA.Bundle(c.ctx, t.ID)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, map[string]string{"tenant_id": t.ID, "ca_bundle": anchorsPEM(b)})
}

// spiffeBundle is the bundle endpoint, profile https_web (SPIFFE Federation
// section 5.1): no client is asked who it is.
func (a *API) spiffeBundle(c *call) error {
	t, err := a.Store.TenantByTrustDomain(c.ctx, c.param("trust_domain"))
	if err != nil {
		return err
	}
	raw, err := a.bundleJSON(c, t.ID)
	if err != nil {
		return err
	}
	return c.ec.Blob(http.StatusOK, "application/json", raw)
}

func (a *API) bundleJSON(c *call, tenant string) (json.RawMessage, error) {
	b, err := a.CA.Bundle(c.ctx, tenant)
	if err != nil {
		return nil, err
	}
	raw, err := b.Marshal()
	if err != nil {
		return nil, fmt.Errorf("encode the bundle of tenant %s: %w", tenant, err)
	}
	return raw, nil
}

func anchorsPEM(b *spiffebundle.Bundle) string {
	var out []byte
	for _, anchor := range b.X509Authorities() {
		out = append(out, certificatePEM(anchor.Raw)...)
	}
	return string(out)
}

// chainPEM encodes certificates, in order.
func chainPEM(chain [][]byte) string {
	var out []byte
	for _, der := range chain {
		out = append(out, certificatePEM(der)...)
	}
	return string(out)
}

func certificatePEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
