package pki

import (
	"crypto/x509"
	"testing"
)

func TestServer(t *testing.T) {
	root := NewRSA(t, "root")
	middle := root.Intermediate(t, "middle")
	pair := middle.Server(t, "api.example", "127.0.0.1")
	above := x509.NewCertPool()
	for _, raw := range pair.Certificate[1:] {
		above.AppendCertsFromPEM(CertificatePEM(parse(t, raw)))
	}
	for _, name := range []string{"api.example", "127.0.0.1"} {
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: root.Pool(), Intermediates: above}); err != nil {
			t.Errorf("the certificate of %s: %v", name, err)
		}
	}
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: New(t, "root").Pool(), Intermediates: above}); err == nil {
		t.Error("the certificate verifies under another root")
	}
}

func parse(t *testing.T, raw []byte) *x509.Certificate {
	t.Helper()
	certificate, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}
