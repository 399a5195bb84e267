package kubernetes

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/authsec-ai/icp/e2e/stage"
)

// pki is a cluster's authority and what it has issued: NAME.crt and NAME.key in
// one folder, PEM; the keys for the control plane's user alone.
type pki struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// newPKI makes the folder and the authority, ca.crt.
func newPKI(t stage.T, dir string) *pki {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatalf("make the cluster's certificates: %v", err)
	}
	p := &pki{dir: dir, key: newKey(t)}
	template := certificate("the cluster's authority")
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	p.cert = template // its own issuer
	p.cert = p.sign(t, "ca", template, p.key)
	return p
}

func newKey(t stage.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatalf("make a key: %v", err)
	}
	return key
}

func certificate(name string, organizations ...string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes([]byte(rand.Text()[:16])),
		Subject:      pkix.Name{CommonName: name, Organization: organizations},
		NotBefore:    time.Now().Add(-time.Minute), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature,
	}
}

// server issues a certificate for a server that is reached at the addresses,
// which are IP addresses or DNS names.
func (p *pki) server(t stage.T, name string, addresses ...string) {
	t.Helper()
	template := certificate(name)
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	for _, address := range addresses {
		if ip := net.ParseIP(address); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, address)
		}
	}
	p.issue(t, name, template)
}

// client issues a certificate that makes its holder a user in the groups.
func (p *pki) client(t stage.T, name, user string, groups ...string) {
	t.Helper()
	template := certificate(user, groups...)
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	p.issue(t, name, template)
}

func (p *pki) issue(t stage.T, name string, template *x509.Certificate) {
	t.Helper()
	key := newKey(t)
	p.sign(t, name, template, key)
	p.writeKey(t, name, key)
}

// sign issues NAME.crt for key.
func (p *pki) sign(t stage.T, name string, template *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, p.cert, &key.PublicKey, p.key)
	if err != nil {
		t.Fatalf("issue %s: %v", name, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatalf("issue %s: %v", name, err)
	}
	p.write(t, name+".crt", 0o644, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return cert
}

func (p *pki) writeKey(t stage.T, name string, key *ecdsa.PrivateKey) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatalf("write the key of %s: %v", name, err)
	}
	p.write(t, name+".key", 0o600, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func (p *pki) writePublicKey(t stage.T, name string, key *ecdsa.PublicKey) {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatalf("write the public key of %s: %v", name, err)
	}
	p.write(t, name+".pub", 0o644, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func (p *pki) write(t stage.T, name string, mode os.FileMode, content []byte) {
	t.Helper()
	if err := os.WriteFile(p.path(name), content, mode); err != nil {
		t.Fatalf("write the cluster's certificates: %v", err)
	}
	if err := give(p.path(name)); err != nil {
		t.Fatalf("write the cluster's certificates: %v", err)
	}
}

func (p *pki) path(name string) string { return filepath.Join(p.dir, name) }

// kubeconfig writes NAME.kubeconfig, which holds all that the holder of NAME.crt
// needs to reach the API server at url, and gives its path.
func (p *pki) kubeconfig(t stage.T, name, url string) string {
	t.Helper()
	in := func(file string) string {
		raw, err := os.ReadFile(p.path(file))
		if err != nil {
			t.Fatalf("write a kubeconfig: %v", err)
		}
		return base64.StdEncoding.EncodeToString(raw)
	}
	p.write(t, name+".kubeconfig", 0o600, fmt.Appendf(nil, `apiVersion: v1
kind: Config
current-context: it
clusters: [{name: it, cluster: {server: %q, certificate-authority-data: %s}}]
users: [{name: it, user: {client-certificate-data: %s, client-key-data: %s}}]
contexts: [{name: it, context: {cluster: it, user: it}}]
`, url, in("ca.crt"), in(name+".crt"), in(name+".key")))
	return p.path(name + ".kubeconfig")
}
