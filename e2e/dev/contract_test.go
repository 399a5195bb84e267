package dev

import (
	"bufio"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/authsec-ai/icp/e2e/devtest"
	"github.com/authsec-ai/icp/e2e/icpdev"
	"github.com/authsec-ai/icp/e2e/stage"
)

// startLimit is what the contract allows a first start.
const startLimit = 10 * time.Second

// TestReady reads standard output as a program would that waits for the line.
func TestReady(t *testing.T) {
	dir := filepath.Join(stage.Folder(t), "dev")
	cmd := exec.Command(stage.Program(t, "icp"), "dev", "--dir", dir)
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd.Stdout = in
	began := time.Now()
	process := stage.Start(t, "icp-dev", cmd)
	in.Close()
	lines := bufio.NewScanner(out)
	if !lines.Scan() || !strings.HasPrefix(lines.Text(), "ready") {
		t.Fatalf("the first line is %q; want one that starts with ready. On standard error:\n%s", lines.Text(), process.Tail(4096))
	}
	took := time.Since(began)
	info := checkInfo(t, dir) // it is there already
	if info.PID != process.PID {
		t.Errorf("dev.json names process %d, it is %d", info.PID, process.PID)
	}
	if took > startLimit {
		t.Errorf("the first start took %s; the contract says at most %s", took, startLimit)
	}
	t.Logf("first start: %s", took)
	for range 3 {
		if !lines.Scan() {
			t.Fatal("fewer than three commands follow the line")
		}
		t.Run(strings.TrimSpace(lines.Text()), func(t *testing.T) { // as a reader would paste it
			stage.Output(t, exec.Command("/bin/sh", "-c", lines.Text()))
		})
	}
	if err := process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := process.Err(); err != nil {
		t.Errorf("SIGTERM: it ended with %v; want exit status 0", err)
	}
	if lines.Scan() {
		t.Errorf("it printed %q besides", lines.Text())
	}
	if printed := process.Tail(4096); printed != "" {
		t.Errorf("it printed to standard error: %s", printed)
	}
	if _, err := os.Stat(filepath.Join(dir, "agent.sock")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after SIGTERM the socket is still there (%v)", err)
	}
}

// checkInfo reads dev.json strictly: every field of the contract, and no other.
func checkInfo(t *testing.T, dir string) icpdev.Info {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, "dev.json"))
	if err != nil {
		t.Fatal(err)
	}
	var info icpdev.Info
	decoder := json.NewDecoder(strings.NewReader(string(raw)))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&info); err != nil {
		t.Fatalf("dev.json: %v", err)
	}
	for what, got := range map[string][2]string{
		"tenant":           {info.Tenant, "dev"},
		"trust_domain":     {info.TrustDomain, "dev.icp.internal"},
		"agent_id":         {info.AgentID, "spiffe://dev.icp.internal/agent/dev"},
		"agent_socket":     {info.AgentSocket, "unix://" + filepath.Join(dir, "agent.sock")},
		"server_ca_file":   {info.ServerCAFile, filepath.Join(dir, "server-ca.pem")},
		"admin_token_file": {info.AdminTokenFile, filepath.Join(dir, "admin.token")},
	} {
		if got[0] != got[1] {
			t.Errorf("dev.json: %s is %q, want %q", what, got[0], got[1])
		}
	}
	for url, scheme := range map[string]string{info.ServerURL: "https", info.ProxyURL: "https",
		info.AgentAdminURL: "http", info.ProxyMetricsURL: "http", info.UpstreamURL: "http"} {
		address, found := strings.CutPrefix(url, scheme+"://127.0.0.1:")
		if !found || address == "0" {
			t.Errorf("dev.json: %q is no %s address of loopback", url, scheme)
		}
		if err := stage.Dial("127.0.0.1:" + address); err != nil {
			t.Errorf("dev.json names %s, where nothing answers: %v", url, err)
		}
	}
	return info
}

// TestContract uses a running `icp dev` as other programs do.
func TestContract(t *testing.T) {
	d := devtest.Start(t)
	t.Run("the token is a tenant admin's", func(t *testing.T) { tenantAdmin(t, d) })
	t.Run("agent_id is a parent", func(t *testing.T) { parent(t, d) })
	t.Run("the caller has the default identity", func(t *testing.T) { defaultIdentity(t, d) })
	t.Run("health and metrics", func(t *testing.T) { health(t, d) })
	t.Run("sample policies", func(t *testing.T) { samples(t, d) })
}

func tenantAdmin(t *testing.T, d *devtest.Dev) {
	var tokens struct {
		Items []struct{ Tenant, Role string }
	}
	if _, err := d.Admin.Do(t.Context(), http.MethodGet, "/api/v1/tokens", nil, &tokens); err != nil {
		t.Fatal(err)
	}
	if len(tokens.Items) != 1 || tokens.Items[0].Role != "tenant-admin" || tokens.Items[0].Tenant != "dev" {
		t.Errorf("the tokens are %+v; want one, of a tenant-admin of dev", tokens.Items)
	}
	status, err := d.Admin.Do(t.Context(), http.MethodGet, "/api/v1/tenants", nil, nil)
	if status != http.StatusForbidden {
		t.Errorf("listing all tenants gives %d (%v); want 403, it is not a platform admin's", status, err)
	}
	if info, err := os.Stat(d.AdminTokenFile); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the token's file: %v, %v; want mode 600", info, err)
	}
}

func parent(t *testing.T, d *devtest.Dev) {
	id := d.Entry(t, "/child", 4242, "")
	var entry icpdev.Entry
	if _, err := d.Admin.Do(t.Context(), http.MethodGet, "/api/v1/workloads/"+id, nil, &entry); err != nil {
		t.Fatal(err)
	}
	if entry.ParentID != d.AgentID {
		t.Errorf("its parent is %q, want %q", entry.ParentID, d.AgentID)
	}
}

func defaultIdentity(t *testing.T, d *devtest.Dev) {
	svid, err := d.Workload(t).FetchX509SVID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := svid.ID.String(); got != "spiffe://dev.icp.internal/dev" {
		t.Errorf("the default identity is %s", got)
	}
}

func health(t *testing.T, d *devtest.Dev) {
	for _, url := range []string{
		d.AgentAdminURL + "/healthz", d.AgentAdminURL + "/readyz", d.AgentAdminURL + "/metrics",
		d.ProxyMetricsURL + "/healthz", d.ProxyMetricsURL + "/readyz", d.ProxyMetricsURL + "/metrics",
	} {
		resp, err := http.Get(url)
		if err != nil {
			t.Error(err)
			continue
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s answers %s", url, resp.Status)
		}
	}
}

// samples has the default identity use what the sample policies allow it, and
// no more.
func samples(t *testing.T, d *devtest.Dev) {
	source, err := workloadapi.NewX509Source(t.Context(), workloadapi.WithClientOptions(workloadapi.WithAddr(d.AgentSocket)))
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	client := d.Client(t, source)
	defer client.CloseIdleConnections()
	const chat = `{"model": "%", "messages": [{"role": "user", "content": "hello"}]}`
	for _, c := range []struct {
		method, path, model string
		want                int
	}{
		{http.MethodGet, "/echo", "", http.StatusOK},
		{http.MethodDelete, "/echo", "", http.StatusForbidden},
		{http.MethodPost, "/v1/chat/completions", "sample-llm", http.StatusOK},
		{http.MethodPost, "/v1/chat/completions", "another-llm", http.StatusForbidden},
		{http.MethodGet, "/nowhere", "", http.StatusForbidden},
	} {
		body := ""
		if c.model != "" {
			body = strings.Replace(chat, "%", c.model, 1)
		}
		req, err := http.NewRequestWithContext(t.Context(), c.method, d.ProxyURL+c.path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != c.want {
			t.Errorf("%s %s %s answers %d, want %d", c.method, c.path, c.model, resp.StatusCode, c.want)
		}
	}
}
