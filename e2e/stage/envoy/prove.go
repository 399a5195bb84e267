package envoy

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	_ "embed"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"text/template"
	"time"

	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/e2e/stage/pki"
)

//go:embed prove.yaml
var proveConfig string

// Prove starts an Envoy that lets clients of one authority in, and shows that it
// presents the certificate it was given and counts the stranger it refuses.
func Prove(t stage.T) stage.Proof {
	t.Helper()
	ours, theirs := pki.New(t, "edge"), pki.New(t, "edge")
	own, port := ours.Server(t, "127.0.0.1"), stage.FreePort(t)
	chain, key := pki.PairPEM(t, own)
	config := fillIn(t, port, map[string][]byte{"edge.crt": chain, "edge.key": key, "ca.crt": pki.CertificatePEM(ours.Certificate)})
	client, stranger := clientOf(t, ours, ours.Pool()), clientOf(t, theirs, ours.Pool())
	url := fmt.Sprintf("https://127.0.0.1:%d/", port)

	begin := time.Now()
	e := Start(t, config, Options{})
	e.WaitReady(t, patience, func() error { return get(client, url) })
	ready := time.Since(begin)
	if err := get(stranger, url); err == nil {
		t.Fatalf("envoy lets a client of another authority in")
	}
	stage.Eventually(t, patience, func() error { // it answers before it counts
		if n := e.Stat(t, "ssl.fail_verify_error"); n != 1 {
			return fmt.Errorf("envoy has counted %d certificates that fail verification, want 1", n)
		}
		return nil
	})
	serial, err := e.Serial()
	if given := fmt.Sprintf("%x", own.Leaf.SerialNumber); err != nil || serial != given {
		t.Fatalf("envoy presents serial %s (%v), but was given %s", serial, err, given)
	}
	version, err := e.Version()
	if err != nil {
		t.Fatalf("%v", err)
	}
	return stage.Proof{Version: version, Ready: ready,
		Fact: fmt.Sprintf("presents serial %.8s… as given; a client of its authority gets 200, a stranger's is refused (fail_verify_error 1)", serial)}
}

// fillIn writes the files and gives the configuration that names them.
func fillIn(t stage.T, port int, files map[string][]byte) string {
	t.Helper()
	dir := stage.Folder(t)
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatalf("write Envoy's files: %v", err)
		}
	}
	var config bytes.Buffer
	if err := template.Must(template.New("").Parse(proveConfig)).Execute(&config, map[string]any{"Port": port, "Dir": dir}); err != nil {
		t.Fatalf("fill in Envoy's configuration: %v", err)
	}
	return config.String()
}

// get asks once on a new connection.
func get(config *tls.Config, url string) error {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("envoy answers %s", resp.Status)
	}
	return nil
}

// clientOf is for a client with a certificate of an authority that trusts roots.
func clientOf(t stage.T, authority *pki.Authority, roots *x509.CertPool) *tls.Config {
	t.Helper()
	key := pki.ECDSA(t)
	leaf := authority.Sign(t, &x509.Certificate{
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, key.Public())
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}}, RootCAs: roots, MinVersion: tls.VersionTLS12}
}
