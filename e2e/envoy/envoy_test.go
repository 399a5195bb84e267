package envoy

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"text/template"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/authsec-ai/icp/e2e/stage"
)

//go:embed testdata/envoy.yaml
var configText string

// settings fill in the configuration.
type settings struct {
	Socket          string // of the agent
	API             string // GRPC or DELTA_GRPC
	CertificateName string
	ValidationName  string
	ClientID        spiffeid.ID
	Port, AdminPort int
}

// edge is a running Envoy.
type edge struct {
	*stage.Process
	settings
}

// startEdge starts Envoy as uid, if the test may choose.
func startEdge(t *testing.T, uid uint32, s settings) *edge {
	t.Helper()
	s.Port, s.AdminPort = stage.FreePort(t), stage.FreePort(t)
	var config bytes.Buffer
	if err := template.Must(template.New("").Parse(configText)).Execute(&config, s); err != nil {
		t.Fatalf("fill in Envoy's configuration: %v", err)
	}
	program := openProgram(t)
	defer program.Close()
	// By descriptor: another user may not be allowed to walk to the program.
	cmd := exec.Command("/proc/self/fd/3", "--config-yaml", config.String(),
		"--disable-hot-restart", "--concurrency", "1", "--log-level", "info")
	cmd.ExtraFiles = []*os.File{program}
	cmd.Dir = "/"
	if os.Getuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	}
	e := &edge{Process: stage.Start(t, "envoy", cmd), settings: s}
	e.WaitReady(t, 30*time.Second, func() error {
		_, err := e.admin("/server_info")
		return err
	})
	return e
}

// openProgram opens Envoy itself, also where the command of that name is the
// script of the Python package that carries it.
func openProgram(t *testing.T) *os.File {
	t.Helper()
	path := stage.Find(t, "ICP_ENVOY", "envoy", "../../.work/venv/bin/envoy")
	carried := filepath.Join(filepath.Dir(path), "../lib/python3*/site-packages/envoy/_bin/envoy")
	if matches, err := filepath.Glob(carried); err == nil && len(matches) > 0 {
		path = matches[0]
	}
	program, err := os.Open(path)
	if err != nil {
		t.Fatalf("open Envoy: %v", err)
	}
	return program
}

func (e *edge) addr() string { return fmt.Sprintf("127.0.0.1:%d", e.Port) }

// admin asks Envoy's admin port.
func (e *edge) admin(path string) ([]byte, error) {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d%s", e.AdminPort, path))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("envoy's %s answers %s", path, resp.Status)
	}
	return body, err
}

// serial gives the serial of the certificate that Envoy presents, by /certs.
func (e *edge) serial() (string, error) {
	body, err := e.admin("/certs")
	if err != nil {
		return "", err
	}
	var certs struct {
		Certificates []struct {
			Chain []struct {
				Serial string `json:"serial_number"`
			} `json:"cert_chain"`
		} `json:"certificates"`
	}
	if err := json.Unmarshal(body, &certs); err != nil {
		return "", fmt.Errorf("read Envoy's certificates: %w", err)
	}
	for _, certificate := range certs.Certificates {
		if len(certificate.Chain) > 0 {
			return strings.TrimLeft(certificate.Chain[0].Serial, "0"), nil
		}
	}
	return "", errors.New("envoy has no certificate")
}

// stat gives the sum of the counters whose names end in suffix.
func (e *edge) stat(t *testing.T, suffix string) int {
	t.Helper()
	body, err := e.admin("/stats")
	if err != nil {
		t.Fatalf("read Envoy's counters: %v", err)
	}
	sum, found := 0, false
	for line := range strings.Lines(string(body)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		var n int
		if !strings.HasSuffix(name, suffix) {
			continue
		}
		if _, err := fmt.Sscan(value, &n); err != nil {
			t.Fatalf("counter %s is %q: %v", name, value, err)
		}
		sum, found = sum+n, true
	}
	if !found {
		t.Fatalf("envoy has no counter %s", suffix)
	}
	return sum
}
