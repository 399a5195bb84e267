package ca

import (
	"context"
	"crypto/x509"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/server/store"
)

// refreshHint is how often consumers of a bundle should ask for it again.
const refreshHint = 5 * time.Minute

// Bundle gives what verifiers of the tenant's workloads trust: its workload
// anchors and JWT keys, straight from the store. The sequence number grows by
// one whenever one of them is added, and whenever one has expired and is gone.
func (c *CA) Bundle(ctx context.Context, tenant string) (*spiffebundle.Bundle, error) {
	t, err := c.store.Tenant(ctx, tenant)
	if err != nil {
		return nil, unavailable("load the tenant", err)
	}
	rows, err := c.store.Authorities(ctx, tenant)
	if err != nil {
		return nil, unavailable("load the tenant's authorities", err)
	}
	domain, err := identity.ParseTrustDomain(t.TrustDomain)
	if err != nil {
		return nil, err
	}
	bundle := spiffebundle.New(domain)
	bundle.SetRefreshHint(refreshHint)
	var sequence uint64
	for _, row := range rows {
		if row.Purpose != store.WorkloadAnchor && row.Purpose != store.JWTKey {
			continue
		}
		sequence++
		if !c.now().Before(row.ExpiresAt) {
			sequence++
			continue
		}
		if err := publish(bundle, row); err != nil {
			return nil, fmt.Errorf("put authority %s into the bundle: %w", row.ID, err)
		}
	}
	bundle.SetSequenceNumber(sequence)
	return bundle, nil
}

func publish(bundle *spiffebundle.Bundle, row store.Authority) error {
	if row.Purpose == store.JWTKey {
		key, err := x509.ParsePKIXPublicKey(row.SPKI)
		if err != nil {
			return err
		}
		return bundle.AddJWTAuthority(row.ID, key)
	}
	cert, err := x509.ParseCertificate(row.Certificate)
	if err != nil {
		return err
	}
	bundle.AddX509Authority(cert)
	return nil
}

// NodeAnchors gives what the server trusts when an agent of the tenant calls.
// No one else gets it, and it is at most viewAge old. The caller must not change it.
func (c *CA) NodeAnchors(ctx context.Context, tenant string) (*x509bundle.Bundle, error) {
	v, err := c.look(ctx, tenant)
	if err != nil {
		return nil, err
	}
	return v.nodeAnchors()
}

func nodeAnchors(domain spiffeid.TrustDomain, authorities []store.Authority) (*x509bundle.Bundle, error) {
	bundle := x509bundle.New(domain)
	for _, row := range authorities {
		if row.Purpose != store.NodeAnchor {
			continue
		}
		cert, err := x509.ParseCertificate(row.Certificate)
		if err != nil {
			return nil, fmt.Errorf("read node anchor %s: %w", row.ID, err)
		}
		bundle.AddX509Authority(cert)
	}
	return bundle, nil
}
