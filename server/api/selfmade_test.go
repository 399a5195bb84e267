package api_test

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"math/big"
	"net/url"
	"testing"
	"time"
)

// selfMade is a chain that looks like an agent's, from an authority that nobody
// knows.
func selfMade(t testing.TB, id string, key *ecdsa.PrivateKey) [][]byte {
	t.Helper()
	uri := must(url.Parse(id))(t)
	root := newKey(t)
	anchor := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, URIs: []*url.URL{{Scheme: "spiffe", Host: uri.Host}}}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: anchor.NotBefore, NotAfter: anchor.NotAfter,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature, URIs: []*url.URL{uri},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	return [][]byte{
		must(x509.CreateCertificate(rand.Reader, leaf, anchor, &key.PublicKey, root))(t),
		must(x509.CreateCertificate(rand.Reader, anchor, anchor, &root.PublicKey, root))(t),
	}
}
