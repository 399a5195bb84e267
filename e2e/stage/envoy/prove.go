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
)

//go:embed prove.yaml
var proveConfig string

// Prove starts an Envoy that lets clients of one authority in, and shows that it
// presents the certificate it was given and counts the stranger it refuses.
func Prove(t stage.T) stage.Proof {
	t.Helper()
	ours, theirs := newAuthority(t), newAuthority(t)
	own := ours.issue(t)
	port := stage.FreePort(t)
	config := fillIn(t, port, map[string][]byte{"edge.crt": own.certificate, "edge.key": own.key, "ca.crt": ours.certificate})
	client, stranger := ours.client(t, ours.issue(t)), ours.client(t, theirs.issue(t))
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
	if err != nil || serial != own.serial {
		t.Fatalf("envoy presents serial %s (%v), but was given %s", serial, err, own.serial)
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

// client is for one who shows a credential and trusts the authority.
func (a *authority) client(t stage.T, shown credential) *tls.Config {
	t.Helper()
	pair, err := tls.X509KeyPair(shown.certificate, shown.key)
	if err != nil {
		t.Fatalf("read a credential: %v", err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(a.parsed)
	return &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots, MinVersion: tls.VersionTLS12}
}
