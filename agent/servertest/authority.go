package servertest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// TrustDomain is that of every identity a Server gives out.
const TrustDomain = "test.example"

const keyID = "jwt-1"

// authority signs certificates and tokens; its anchor is long-lived.
type authority struct {
	tb     testing.TB
	anchor *x509.Certificate
	key    *ecdsa.PrivateKey
}

func newAuthority(tb testing.TB, name string) *authority {
	key := newKey(tb)
	template := &x509.Certificate{
		SerialNumber: serial(tb), Subject: pkix.Name{CommonName: name},
		URIs:      []*url.URL{{Scheme: "spiffe", Host: TrustDomain}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(100 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, MaxPathLen: 1,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	return &authority{tb: tb, anchor: sign(tb, template, template, key.Public(), key), key: key}
}

// leaf makes a certificate that is valid from backdate before now for ttl.
func (a *authority) leaf(id spiffeid.ID, public crypto.PublicKey, now time.Time, ttl time.Duration) *x509.Certificate {
	return sign(a.tb, &x509.Certificate{
		SerialNumber: serial(a.tb), URIs: []*url.URL{id.URL()},
		NotBefore: now.Add(-10 * time.Second), NotAfter: now.Add(ttl),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.anchor, public, a.key)
}

// server makes the TLS certificate of 127.0.0.1.
func (a *authority) server() *x509.Certificate {
	return sign(a.tb, &x509.Certificate{
		SerialNumber: serial(a.tb), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, a.anchor, a.key.Public(), a.key)
}

func (a *authority) token(id spiffeid.ID, audience []string, now time.Time, ttl time.Duration) (string, error) {
	signer, err := jose.NewSigner(jose.SigningKey{
		Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: a.key, KeyID: keyID},
	}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", fmt.Errorf("make a JWT signer: %w", err)
	}
	return jwt.Signed(signer).Claims(map[string]any{
		"sub": id.String(), "aud": audience, "iat": now.Unix(), "exp": now.Add(ttl).Unix(), "jti": rand.Text(),
	}).Serialize()
}

func (a *authority) bundle() *spiffebundle.Bundle {
	b := spiffebundle.New(spiffeid.RequireTrustDomainFromString(TrustDomain))
	b.SetX509Authorities([]*x509.Certificate{a.anchor})
	b.SetJWTAuthorities(map[string]crypto.PublicKey{keyID: a.key.Public()})
	return b
}

func newKey(tb testing.TB) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatalf("make a key: %v", err)
	}
	return key
}

func serial(tb testing.TB) *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		tb.Errorf("make a serial: %v", err)
	}
	return n.Add(n, big.NewInt(1))
}

func sign(tb testing.TB, template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		tb.Errorf("sign a certificate: %v", err)
		return nil
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Errorf("parse a certificate: %v", err)
	}
	return cert
}
