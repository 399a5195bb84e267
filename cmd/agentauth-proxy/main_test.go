package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/authsec-ai/icp/e2e/stage"
)

func build(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "agentauth-proxy")
	stage.Output(t, exec.Command("go", "build", "-o", program, "."))
	return program
}

const sampleConfig = `
listen: 127.0.0.1:0
metrics_listen: %s
workload_api: unix:///nowhere/agent.sock
audit_file: "-"
policies: {file: policies.yaml}
routes:
  - {service: echo, path_prefix: /echo, upstream: "http://127.0.0.1:1"}
`

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "proxy.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestProgram(t *testing.T) {
	program := build(t)
	t.Run("version", func(t *testing.T) {
		if got := stage.Output(t, exec.Command(program, "--version")); !strings.HasPrefix(got, "agentauth-proxy ") {
			t.Errorf("%q", got)
		}
	})
	t.Run("drains on SIGTERM", func(t *testing.T) {
		metrics := fmt.Sprintf("127.0.0.1:%d", stage.FreePort(t))
		p := stage.Start(t, "proxy", exec.Command(program, "--config", writeConfig(t, fmt.Sprintf(sampleConfig, metrics))))
		p.WaitReady(t, 20*time.Second, func() error { return stage.Dial(metrics) })
		resp, err := http.Get("http://" + metrics + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("ready without SVID and policies: %s", resp.Status)
		}
		if err := p.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		select {
		case <-p.Done():
		case <-time.After(20 * time.Second):
			t.Fatal("it still runs")
		}
		if p.Err() != nil {
			t.Errorf("%v:\n%s", p.Err(), p.Tail(4096))
		}
	})
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	good := fmt.Sprintf(sampleConfig, "127.0.0.1:0")
	for _, row := range []struct{ name, config, env, want string }{
		{"unknown key", good + "listne: x\n", "", "listne"},
		{"unknown variable", good, "ICP_PROXY_LISTNE=x", "ICP_PROXY_LISTNE"},
		{"busy port", good, "ICP_PROXY_LISTEN=" + busy.Addr().String(), "address already in use"},
		{"metrics for everybody", good, "ICP_PROXY_METRICS_LISTEN=0.0.0.0:0", "loopback"},
		{"both sources", good, "ICP_PROXY_POLICIES__SERVER=https://127.0.0.1:1", "not both"},
	} {
		t.Run(row.name, func(t *testing.T) {
			cmd := exec.Command(program, "--config", writeConfig(t, row.config))
			cmd.Env = append(os.Environ(), row.env)
			out, err := cmd.CombinedOutput()
			if err == nil || strings.Count(string(out), "\n") != 1 || !strings.Contains(string(out), row.want) {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}

// The proxy links nothing that it has no use for.
func TestLinks(t *testing.T) {
	linked := stage.Output(t, exec.Command("go", "list", "-deps", "."))
	for _, unwanted := range []string{"go-control-plane", "jackc/pgx", "modernc.org/sqlite", "goose", "k8s.io/", "icp/server", "icp/agent", "crypto11", "pkcs11", "labstack/echo"} {
		if strings.Contains(linked, unwanted) {
			t.Errorf("the proxy links %s", unwanted)
		}
	}
	if !strings.Contains(linked, "github.com/authsec-ai/icp/proxy/head") {
		t.Error("the list of packages is not the proxy's")
	}
}
