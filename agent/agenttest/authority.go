package agenttest

import (
	"bytes"
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
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/authsec-ai/icp/agent/cache"
)

// Authority signs for one trust domain: an anchor, an issuing authority below
// it, and a JWT key, all in memory.
type Authority struct {
	TrustDomain spiffeid.TrustDomain

	tb      testing.TB
	anchor  *x509.Certificate
	issuing *x509.Certificate
	key     *ecdsa.PrivateKey // of issuing
	jwtKey  *ecdsa.PrivateKey
}

const keyID = "jwt-1"

// NewAuthority makes an Authority for a trust domain name.
func NewAuthority(tb testing.TB, name string) *Authority {
	tb.Helper()
	a := &Authority{TrustDomain: spiffeid.RequireTrustDomainFromString(name), tb: tb}
	anchorKey := newKey(tb)
	template := a.caTemplate("anchor", 1)
	a.anchor = sign(tb, template, template, anchorKey.Public(), anchorKey)
	a.key = newKey(tb)
	a.issuing = sign(tb, a.caTemplate("issuing", 0), a.anchor, a.key.Public(), anchorKey)
	a.jwtKey = newKey(tb)
	return a
}

func (a *Authority) caTemplate(name string, pathLen int) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber:          serial(a.tb),
		Subject:               pkix.Name{CommonName: name},
		URIs:                  []*url.URL{a.TrustDomain.ID().URL()},
		NotBefore:             time.Now().Add(-time.Minute),
		NotAfter:              time.Now().Add(24 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLen:            pathLen,
		MaxPathLenZero:        pathLen == 0,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
}

// Issue makes an X.509-SVID that is valid for an hour.
func (a *Authority) Issue(id spiffeid.ID) *x509svid.SVID {
	a.tb.Helper()
	key := newKey(a.tb)
	leaf := sign(a.tb, &x509.Certificate{
		SerialNumber:          serial(a.tb),
		URIs:                  []*url.URL{id.URL()},
		NotBefore:             time.Now().Add(-10 * time.Second),
		NotAfter:              time.Now().Add(time.Hour),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.issuing, key.Public(), a.key)
	return &x509svid.SVID{ID: id, Certificates: []*x509.Certificate{leaf, a.issuing}, PrivateKey: key}
}

// Token makes a JWT-SVID that is valid for five minutes.
func (a *Authority) Token(id spiffeid.ID, audience []string) string {
	a.tb.Helper()
	now := time.Now()
	return a.Sign(map[string]any{
		"sub": id.String(), "aud": audience, "iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(),
	})
}

// Sign makes a token of any claims.
func (a *Authority) Sign(claims map[string]any) string {
	a.tb.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{
		Algorithm: jose.ES256,
		Key:       jose.JSONWebKey{Key: a.jwtKey, KeyID: keyID},
	}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		a.tb.Fatalf("make a JWT signer: %v", err)
	}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		a.tb.Fatalf("sign a JWT: %v", err)
	}
	return token
}

// Bundle gives what verifies the Authority's SVIDs.
func (a *Authority) Bundle() *spiffebundle.Bundle {
	bundle := spiffebundle.New(a.TrustDomain)
	bundle.SetX509Authorities([]*x509.Certificate{a.anchor})
	bundle.SetJWTAuthorities(map[string]crypto.PublicKey{keyID: a.jwtKey.Public()})
	return bundle
}

// identityOf encodes an SVID as the cache holds it.
func identityOf(tb testing.TB, svid *x509svid.SVID) cache.Identity {
	tb.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(svid.PrivateKey)
	if err != nil {
		tb.Fatalf("encode a key: %v", err)
	}
	var chain bytes.Buffer
	for _, cert := range svid.Certificates {
		chain.Write(cert.Raw)
	}
	return cache.Identity{SVID: svid, ChainDER: chain.Bytes(), KeyDER: key}
}

func newKey(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatalf("make a key: %v", err)
	}
	return key
}

func serial(tb testing.TB) *big.Int {
	tb.Helper()
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		tb.Fatalf("make a serial: %v", err)
	}
	return n
}

func sign(tb testing.TB, template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	tb.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		tb.Fatalf("sign a certificate: %v", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatalf("parse a certificate: %v", err)
	}
	return cert
}
