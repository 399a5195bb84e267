package cli_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/authsec-ai/icp/cmd/icp/internal/cli"
	"github.com/authsec-ai/icp/cmd/internal/controlplane"
	"github.com/authsec-ai/icp/internal/csr"
	"github.com/authsec-ai/icp/internal/telemetry"
	"github.com/authsec-ai/icp/internal/wire"
	"github.com/authsec-ai/icp/server/registry"
	"github.com/authsec-ai/icp/server/store"

	"crypto/tls"
	"crypto/x509"
	"net/http"
)

// world is a whole server, on SQLite and a real port, and its folder as that of
// an 'icp dev'.
type world struct {
	t       *testing.T
	control *controlplane.ControlPlane
	dir     string
	url     string
	env     map[string]string
}

const agentID = "spiffe://acme.example/agent/n1"

func newWorld(t *testing.T) *world {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &world{t: t, dir: t.TempDir(), env: map[string]string{}}
	tel, err := telemetry.New("test", &bytes.Buffer{}, slog.LevelError)
	check(t, err)
	cfg := controlplane.Defaults()
	cfg.Listen, cfg.DataDir = "127.0.0.1:0", filepath.Join(w.dir, "server")
	w.control, err = controlplane.Open(ctx, cfg, tel)
	check(t, err)
	addr, err := w.control.Listen()
	check(t, err)
	w.url = "https://" + addr.String()
	done := make(chan error, 1)
	go func() { done <- w.control.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		check(t, <-done)
		check(t, w.control.Close())
	})
	_, err = w.control.Registry.CreateTenant(ctx, registry.System(), "acme", "acme.example", store.Settings{})
	check(t, err)
	_, err = w.control.AdminToken(ctx, w.file("admin.token"), "acme", store.TenantAdmin)
	check(t, err)
	info, err := json.Marshal(map[string]string{
		"server_url": w.url, "server_ca_file": w.control.CAFile, "admin_token_file": w.file("admin.token"),
		"trust_domain": "acme.example", "agent_id": agentID, "agent_socket": "unix://" + w.file("agent.sock"),
	})
	check(t, err)
	check(t, os.WriteFile(w.file("dev.json"), info, 0o600))
	return w
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) file(name string) string { return filepath.Join(w.dir, name) }

// write puts text into a file and gives its path.
func (w *world) write(name, text string) string {
	w.t.Helper()
	check(w.t, os.WriteFile(w.file(name), []byte(text), 0o600))
	return w.file(name)
}

// result is what a command line did.
type result struct {
	t              *testing.T
	args           []string
	code           int
	stdout, stderr string
}

// icp runs a command line against the server's folder.
func (w *world) icp(args ...string) result {
	w.t.Helper()
	return icp(w.t, w.env, "", append([]string{"--dir", w.dir}, args...)...)
}

func icp(t *testing.T, env map[string]string, stdin string, args ...string) result {
	t.Helper()
	return icpContext(context.Background(), t, env, stdin, args...)
}

func icpContext(ctx context.Context, t *testing.T, env map[string]string, stdin string, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code := cli.Main(ctx, cli.Env{
		Args: args, Getenv: func(name string) string { return env[name] },
		Stdin: strings.NewReader(stdin), Stdout: &stdout, Stderr: &stderr,
	})
	return result{t: t, args: args, code: code, stdout: stdout.String(), stderr: stderr.String()}
}

// ok fails the test unless the command worked.
func (r result) ok() result {
	r.t.Helper()
	return r.exits(0)
}

func (r result) exits(code int) result {
	r.t.Helper()
	if r.code != code {
		r.t.Fatalf("icp %s: exit code %d, want %d\nstdout: %s\nstderr: %s", strings.Join(r.args, " "), r.code, code, r.stdout, r.stderr)
	}
	return r
}

// fails checks exit code, the one line on stderr, and that stdout is empty.
func (r result) fails(code int, line string) {
	r.t.Helper()
	r.exits(code)
	if !strings.HasPrefix(r.stderr, "icp: ") || strings.Count(r.stderr, "\n") != 1 || !strings.Contains(r.stderr, line) || r.stdout != "" {
		r.t.Errorf("icp %s:\nstdout: %s\nstderr: %s\nwant one line with %q on stderr and nothing else", strings.Join(r.args, " "), r.stdout, r.stderr, line)
	}
}

// says checks that stdout holds each text.
func (r result) says(texts ...string) result {
	r.t.Helper()
	for _, text := range texts {
		if !strings.Contains(r.stdout, text) {
			r.t.Errorf("icp %s prints\n%swithout %q", strings.Join(r.args, " "), r.stdout, text)
		}
	}
	return r
}

// decode reads stdout as one JSON document.
func (r result) decode(into any) {
	r.t.Helper()
	dec := json.NewDecoder(strings.NewReader(r.stdout))
	if err := dec.Decode(into); err != nil || dec.More() {
		r.t.Fatalf("icp %s prints no single JSON document (%v): %s", strings.Join(r.args, " "), err, r.stdout)
	}
}

// attest lets a node in with a join token, as an agent does.
func (w *world) attest(token string) wire.AttestResponse {
	w.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(w.t, err)
	der, err := csr.New(key)
	check(w.t, err)
	body, err := json.Marshal(wire.AttestRequest{Method: "join_token", Token: token, CSR: der})
	check(w.t, err)
	roots := x509.NewCertPool()
	pem, err := os.ReadFile(w.control.CAFile)
	check(w.t, err)
	roots.AppendCertsFromPEM(pem)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	defer transport.CloseIdleConnections()
	res, err := (&http.Client{Transport: transport}).Post(w.url+wire.PathAttest, "application/json", bytes.NewReader(body))
	check(w.t, err)
	defer res.Body.Close()
	var got wire.AttestResponse
	if res.StatusCode != http.StatusOK {
		w.t.Fatal(fmt.Errorf("attest: %s", res.Status))
	}
	check(w.t, json.NewDecoder(res.Body).Decode(&got))
	return got
}
