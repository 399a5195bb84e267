package ca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"
)

// referenceTemplate is the profile of X.509-SVIDs as the standard library would
// be told it.
func referenceTemplate(tb testing.TB, l leaf) *x509.Certificate {
	tb.Helper()
	spki, err := x509.MarshalPKIXPublicKey(l.key)
	if err != nil {
		tb.Fatal(err)
	}
	return &x509.Certificate{
		SerialNumber:          new(big.Int).SetBytes(l.serial),
		Subject:               nameOf(l.id.String()),
		NotBefore:             l.notBefore,
		NotAfter:              l.notAfter,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		SubjectKeyId:          keyID(spki),
		URIs:                  []*url.URL{l.id.URL()},
		DNSNames:              l.dnsNames,
	}
}

// TestLeafEncoding compares our encoder with the standard library's. Signatures
// are deterministic, so whole certificates must be equal.
func TestLeafEncoding(t *testing.T) {
	s := newStage(t)
	s.tenant("a.example")
	v, err := s.ca.look(t.Context(), "a.example")
	if err != nil {
		t.Fatal(err)
	}
	row := s.authority("a.example", "workload-issuer")
	issuer, err := s.ca.open(t.Context(), v, row)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	now := s.clock.Now().Truncate(time.Second)
	base := leaf{id: workloadID(t, "a.example", "/w"), serial: bytes.Repeat([]byte{0x7f}, 16),
		notBefore: now, notAfter: now.Add(time.Hour), key: newKey(t).Public()}
	for name, change := range map[string]func(*leaf){
		"plain":     func(*leaf) {},
		"P-384":     func(l *leaf) { l.key = p384.Public() },
		"RSA":       func(l *leaf) { l.key = rsaKey.Public() },
		"DNS names": func(l *leaf) { l.dnsNames = []string{"db", "db.a.example", "x-1.a.example"} },
		"longest CN": func(l *leaf) {
			l.id = workloadID(t, "a.example", "/"+strings.Repeat("w", 64-len("spiffe://a.example/")))
		},
		"long ID":     func(l *leaf) { l.id = workloadID(t, "a.example", "/"+strings.Repeat("w", 1900)) },
		"underscore":  func(l *leaf) { l.id = workloadID(t, "a.example", "/w_1") },
		"end of 2049": func(l *leaf) { l.notAfter = time.Date(2049, 12, 31, 23, 59, 59, 0, time.UTC) },
		"from 2050":   func(l *leaf) { l.notAfter = time.Date(2050, 1, 1, 0, 0, 0, 0, time.UTC) },
		"high serial": func(l *leaf) { l.serial = bytes.Repeat([]byte{0xff}, 16) },
	} {
		t.Run(name, func(t *testing.T) {
			l := base
			change(&l)
			got, err := l.encode(issuer.cert, issuer.key)
			if err != nil {
				t.Fatal(err)
			}
			want, err := x509.CreateCertificate(nil, referenceTemplate(t, l), issuer.cert, l.key, issuer.key)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Fatalf("ours and the library's differ:\n%x\n%x", got, want)
			}
		})
	}
}
