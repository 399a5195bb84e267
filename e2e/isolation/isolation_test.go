// Package isolation shows SVIDs of two tenants to TLS servers that know nothing
// of SPIFFE.
package isolation

import (
	"crypto/tls"
	"crypto/x509"
	"testing"

	"github.com/authsec-ai/icp/e2e/programs"
	"github.com/authsec-ai/icp/e2e/stage/verifier"
)

// holder is a workload of a tenant, with what its agent serves it.
type holder struct {
	tenant  string
	chain   tls.Certificate
	anchors []*x509.Certificate // of its own trust domain
}

func newHolder(t *testing.T, tenant *programs.Tenant) holder {
	t.Helper()
	tenant.Entry(t, "node", "/web") // the same name in each
	served := tenant.StartAgent(t, "node").Await(t, "/web")
	svid := served.DefaultSVID()
	bundle, err := served.Bundles.GetX509BundleForTrustDomain(svid.ID.TrustDomain())
	if err != nil {
		t.Fatal(err)
	}
	h := holder{tenant: tenant.ID, chain: tls.Certificate{PrivateKey: svid.PrivateKey}, anchors: bundle.X509Authorities()}
	for _, certificate := range svid.Certificates {
		h.chain.Certificate = append(h.chain.Certificate, certificate.Raw)
	}
	return h
}

// TestNaiveVerifiers has each TLS server trust one tenant's bundle and nothing
// else: it takes that tenant's SVIDs and refuses the other's, by the anchor
// alone.
func TestNaiveVerifiers(t *testing.T) {
	s := programs.StartServer(t)
	a, b := newHolder(t, s.NewTenant(t, "a", "a.example")), newHolder(t, s.NewTenant(t, "b", "b.example"))
	for _, v := range verifier.All(t) {
		for _, pair := range [][2]holder{{a, b}, {b, a}} {
			own, other := pair[0], pair[1]
			server := v.Start(t, own.anchors)
			t.Run("CA-2/"+v.Name+"/"+own.tenant+"/refused", func(t *testing.T) {
				if err := server.Ask(t, other.chain); err == nil {
					t.Errorf("%s, which trusts tenant %s, takes an SVID of tenant %s", v.Name, own.tenant, other.tenant)
				}
				withIssuer := other.chain
				withIssuer.Certificate = append(withIssuer.Certificate[:len(withIssuer.Certificate):len(withIssuer.Certificate)], other.anchors[0].Raw)
				if err := server.Ask(t, withIssuer); err == nil {
					t.Errorf("%s takes it when its anchor is sent along", v.Name)
				}
			})
			t.Run("CA-2/"+v.Name+"/"+own.tenant+"/twin", func(t *testing.T) {
				if err := server.Ask(t, own.chain); err != nil {
					t.Errorf("%s refuses an SVID of its own tenant: %v", v.Name, err)
				}
			})
			server.Stop()
		}
	}
}
