package pg_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/authsec-ai/icp/e2e/stage/pg"
)

// TestTLS tries a server that demands client certificates.
func TestTLS(t *testing.T) {
	servers, clients, others := newCA(t), newCA(t), newCA(t)
	certificate, key := servers.issue(t)
	for _, version := range []pg.Version{pg.V15, pg.V18} {
		t.Run(string(version), func(t *testing.T) {
			s := pg.Start(t, pg.Options{Version: version, TLS: &pg.TLS{Certificate: certificate, Key: key, ClientCAs: clients.pem}})
			tryTLS(t, s, servers, clients, others)
		})
	}
}

func tryTLS(t *testing.T, s *pg.Server, servers, clients, others ca) {
	db := s.NewDatabase(t)
	for name, c := range map[string]struct {
		config *tls.Config
		want   string // in the error
	}{
		"certificate":         {config: clients.client(t, servers)},
		"another's":           {others.client(t, servers), "unknown certificate authority"},
		"none":                {&tls.Config{RootCAs: servers.pool, ServerName: "127.0.0.1"}, "requires a valid client certificate"},
		"no TLS":              {nil, "no encryption"},
		"not the server's CA": {clients.client(t, others), "certificate signed by unknown authority"},
	} {
		t.Run(name, func(t *testing.T) {
			config, err := pgx.ParseConfig(db.TCPDSN)
			if err != nil {
				t.Fatal(err)
			}
			config.TLSConfig, config.Fallbacks = c.config, nil
			conn, err := pgx.ConnectConfig(t.Context(), config)
			if err == nil {
				err = conn.Close(t.Context())
			}
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v; want %q", err, c.want)
			}
		})
	}
}

// ca is a certificate authority of a test.
type ca struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pool        *x509.CertPool
	pem         []byte
}

func newCA(t *testing.T) ca {
	template := template()
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	template.Subject = pkix.Name{CommonName: rand.Text()}
	c := ca{pool: x509.NewCertPool()}
	var der []byte
	der, c.key = sign(t, template, nil)
	var err error
	if c.certificate, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	c.pool.AddCert(c.certificate)
	c.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return c
}

// issue gives a certificate for 127.0.0.1, of a server or a client, and its key, in PEM.
func (c ca) issue(t *testing.T) (certificate, key []byte) {
	template := template()
	template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	der, private := sign(t, template, &c)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

// client has a certificate of c and trusts servers.
func (c ca) client(t *testing.T, servers ca) *tls.Config {
	certificate, key := c.issue(t)
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{RootCAs: servers.pool, ServerName: "127.0.0.1", // presented whatever the server asks for
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }}
}

func template() *x509.Certificate {
	return &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()),
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour)}
}

// sign signs a certificate by a CA, or by itself.
func sign(t *testing.T, template *x509.Certificate, by *ca) ([]byte, *ecdsa.PrivateKey) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	parent, signer := template, key
	if by != nil {
		parent, signer = by.certificate, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	return der, key
}
