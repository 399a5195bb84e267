package svid_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/authsec-ai/icp/identity/svid"
)

// TestLibraryMade accepts what crypto/x509 and go-jose make when they are asked
// for an SVID: the validator is not only in tune with our own builder.
func TestLibraryMade(t *testing.T) {
	td := spiffeid.RequireTrustDomainFromString("example.org")
	now := time.Now()
	uri := func(s string) []*url.URL { u, _ := url.Parse(s); return []*url.URL{u} }
	key := func() *ecdsa.PrivateKey { k, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader); return k }
	sign := func(tmpl, parent *x509.Certificate, pub crypto.PublicKey, signer crypto.Signer) *x509.Certificate {
		t.Helper()
		der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, signer)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	rootKey, caKey, leafKey := key(), key(), key()
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "root"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, URIs: uri("spiffe://example.org"),
	}
	root := sign(ca, ca, rootKey.Public(), rootKey)
	sub := *ca
	sub.Subject.CommonName, sub.MaxPathLenZero = "issuer", true
	issuer := sign(&sub, root, caKey.Public(), rootKey)
	leaf := sign(&x509.Certificate{
		SerialNumber: big.NewInt(0xabc), NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Minute), BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs: uri("spiffe://example.org/web"), SubjectKeyId: []byte{1, 2, 3},
	}, issuer, leafKey.Public(), caKey)

	for _, c := range []*x509.Certificate{root, issuer} {
		if err := svid.LintAuthority(c.Raw); err != nil {
			t.Errorf("LintAuthority(%s): %v", c.Subject, err)
		}
	}
	if err := svid.LintLeaf(leaf.Raw); err != nil {
		t.Errorf("LintLeaf: %v", err)
	}
	got, err := svid.VerifyX509([][]byte{leaf.Raw, issuer.Raw}, x509bundle.FromX509Authorities(td, []*x509.Certificate{root}), svid.X509Options{Now: now})
	if err != nil {
		t.Fatal(err)
	}
	if got.ID.String() != "spiffe://example.org/web" || got.Serial != "abc" || got.Lifetime != 2*time.Minute {
		t.Errorf("got %+v", got)
	}

	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: leafKey, KeyID: "k1"}}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(jwt.Claims{
		Subject: "spiffe://example.org/web", Audience: jwt.Audience{"a", "b"}, Expiry: jwt.NewNumericDate(now.Add(time.Minute)), IssuedAt: jwt.NewNumericDate(now),
	}).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	keys := jwtbundle.FromJWTAuthorities(td, map[string]crypto.PublicKey{"k1": leafKey.Public()})
	svidJWT, err := svid.VerifyJWT(token, []string{"b"}, keys, svid.JWTOptions{Now: now})
	if err != nil || svidJWT.ID.String() != "spiffe://example.org/web" {
		t.Fatal(svidJWT, err)
	}
}
