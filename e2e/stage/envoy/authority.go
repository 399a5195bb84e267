package envoy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"time"

	"github.com/authsec-ai/icp/e2e/stage"
)

// authority issues the certificates of Prove.
type authority struct {
	certificate []byte // PEM
	parsed      *x509.Certificate
	signer      *ecdsa.PrivateKey
}

// credential is a certificate for 127.0.0.1, of a server or a client.
type credential struct {
	certificate, key []byte // PEM
	serial           string // hexadecimal
}

func newAuthority(t stage.T) *authority {
	t.Helper()
	signer := newKey(t)
	template := newTemplate(t)
	template.Subject = pkix.Name{CommonName: "authority"}
	template.IsCA, template.KeyUsage = true, x509.KeyUsageCertSign
	parsed := create(t, template, template, signer, signer)
	return &authority{encode("CERTIFICATE", parsed.Raw), parsed, signer}
}

func (a *authority) issue(t stage.T) credential {
	t.Helper()
	key := newKey(t)
	template := newTemplate(t)
	template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	certificate := create(t, template, a.parsed, key, a.signer)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatalf("encode a key: %v", err)
	}
	return credential{encode("CERTIFICATE", certificate.Raw), encode("PRIVATE KEY", der), fmt.Sprintf("%x", certificate.SerialNumber)}
}

func newTemplate(t stage.T) *x509.Certificate {
	t.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		t.Fatalf("make a serial: %v", err)
	}
	now := time.Now()
	return &x509.Certificate{SerialNumber: serial, NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Hour),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature}
}

func newKey(t stage.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatalf("make a key: %v", err)
	}
	return key
}

func create(t stage.T, template, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatalf("sign a certificate: %v", err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatalf("parse a certificate: %v", err)
	}
	return parsed
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
