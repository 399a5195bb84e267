// Package pki makes the stage's certificates: authorities of a test's own that
// nobody trusts but those whom the test tells, and what they sign.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/authsec-ai/icp/e2e/stage"
)

// Authority is a certificate authority with its key.
type Authority struct {
	Certificate *x509.Certificate
	Key         crypto.Signer

	above []*x509.Certificate // those that an intermediate hands out with what it signs
}

// New makes a root with a P-256 key.
func New(t stage.T, name string) *Authority {
	t.Helper()
	return root(t, name, ECDSA(t))
}

// NewRSA makes a root with an RSA key of 2048 bits.
func NewRSA(t stage.T, name string) *Authority {
	t.Helper()
	return root(t, name, RSA(t))
}

func root(t stage.T, name string, key crypto.Signer) *Authority {
	t.Helper()
	template := authorityTemplate(name)
	return &Authority{Certificate: sign(t, template, template, key.Public(), key), Key: key}
}

// Intermediate makes an authority below this one, with an RSA key of 2048 bits.
func (a *Authority) Intermediate(t stage.T, name string) *Authority {
	t.Helper()
	key := RSA(t)
	certificate := a.Sign(t, authorityTemplate(name), key.Public())
	return &Authority{Certificate: certificate, Key: key, above: append([]*x509.Certificate{certificate}, a.above...)}
}

// Sign makes a certificate of a template, for a public key. Without times of its
// own it is valid from an hour ago for a day.
func (a *Authority) Sign(t stage.T, template *x509.Certificate, public crypto.PublicKey) *x509.Certificate {
	t.Helper()
	return sign(t, template, a.Certificate, public, a.Key)
}

// Server makes a TLS server's certificate of host names and IP addresses.
func (a *Authority) Server(t stage.T, names ...string) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{
		Subject:  pkix.Name{CommonName: names[0]},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
			continue
		}
		template.DNSNames = append(template.DNSNames, name)
	}
	key := ECDSA(t)
	leaf := a.Sign(t, template, key.Public())
	pair := tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
	for _, certificate := range a.above {
		pair.Certificate = append(pair.Certificate, certificate.Raw)
	}
	return pair
}

// Pool holds this authority alone.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.Certificate)
	return pool
}

// File writes the authority's certificate to a PEM file and gives its path.
func (a *Authority) File(t stage.T) string {
	t.Helper()
	path := filepath.Join(stage.Folder(t), "ca.pem")
	if err := os.WriteFile(path, CertificatePEM(a.Certificate), 0o644); err != nil {
		t.Fatalf("write a CA's certificate: %v", err)
	}
	return path
}

// RSA makes a key of 2048 bits.
func RSA(t stage.T) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatalf("make an RSA key: %v", err)
	}
	return key
}

// ECDSA makes a P-256 key.
func ECDSA(t stage.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatalf("make a P-256 key: %v", err)
	}
	return key
}

// CertificatePEM gives certificates as PEM, in order.
func CertificatePEM(certificates ...*x509.Certificate) []byte {
	var out []byte
	for _, c := range certificates {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

// PairPEM gives a TLS certificate's chain and its private key (PKCS#8) as PEM.
func PairPEM(t stage.T, pair tls.Certificate) (chain, key []byte) {
	t.Helper()
	for _, raw := range pair.Certificate {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})...)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatalf("write a private key: %v", err)
	}
	return chain, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
}

func authorityTemplate(name string) *x509.Certificate {
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
}

func sign(t stage.T, template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	t.Helper()
	if template.NotBefore.IsZero() {
		template.NotBefore = time.Now().Add(-time.Hour)
	}
	if template.NotAfter.IsZero() {
		template.NotAfter = template.NotBefore.Add(25 * time.Hour)
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		t.Fatalf("sign a certificate: %v", err)
	}
	certificate, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatalf("read back a certificate: %v", err)
	}
	return certificate
}
