package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/authsec-ai/icp/bench/internal/meter"
	"github.com/authsec-ai/icp/e2e/icpdev"
	"github.com/authsec-ai/icp/e2e/stage"
)

const (
	tenant      = "bench"
	trustDomain = "bench.example"
	patience    = 30 * time.Second // for a program that should be ready in seconds
)

// host is the programs of one section and the folder they live in. Close it.
type host struct {
	dir     string
	bin     string // folder with our programs
	running []*stage.Process
}

func newHost(o options) (*host, error) {
	bin, err := filepath.Abs(o.bin)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "icp-bench") // short: a socket's path has at most 107 bytes
	if err != nil {
		return nil, err
	}
	return &host{dir: dir, bin: bin}, nil
}

// close stops the programs, the last one first, and removes the folder.
func (h *host) close() {
	for _, p := range slices.Backward(h.running) {
		p.Stop()
	}
	_ = os.RemoveAll(h.dir) // a leftover in the temporary folder does no harm
}

func (h *host) file(name string) string { return filepath.Join(h.dir, name) }

// launch runs cmd until close and waits until it is ready.
func (h *host) launch(name string, cmd *exec.Cmd, ready func() error) (*stage.Process, error) {
	p, err := stage.Launch(name, h.dir, cmd)
	if err != nil {
		return nil, err
	}
	h.running = append(h.running, p)
	return p, p.Await(patience, ready)
}

// program runs one of ours with a configuration file.
func (h *host) program(name string, config map[string]any, ready func() error) (*stage.Process, error) {
	path := filepath.Join(h.bin, name)
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("%w: run 'make build'", err)
	}
	raw, err := json.Marshal(config) // JSON is YAML
	if err != nil {
		return nil, err
	}
	file := h.file(name + ".yaml")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		return nil, err
	}
	return h.launch(name, exec.Command(path, "--config", file), ready)
}

// address gives a loopback address for a program to listen on.
func address() (string, error) {
	port, err := stage.UnusedPort()
	return fmt.Sprintf("127.0.0.1:%d", port), err
}

// addresses gives several.
func addresses(n int) ([]string, error) {
	var list []string
	for range n {
		addr, err := address()
		if err != nil {
			return nil, err
		}
		list = append(list, addr)
	}
	return list, nil
}

// answers gives a check that url answers 200.
func answers(url string) func() error {
	return func() error {
		client := http.Client{Timeout: time.Second}
		resp, err := client.Get(url)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", url, resp.Status)
		}
		return nil
	}
}

// controlPlane is a running icp-server with one tenant.
type controlPlane struct {
	*stage.Process
	url    string
	caFile string
	roots  *x509.CertPool
	idle   meter.Memory
	admin  *icpdev.Admin // of the tenant
}

// startServer runs icp-server on PostgreSQL, or on SQLite if dsn is "".
func (h *host) startServer(ctx context.Context, dsn string) (*controlPlane, error) {
	addrs, err := addresses(2)
	if err != nil {
		return nil, err
	}
	dir := h.file("server")
	p, err := h.program("icp-server", map[string]any{
		"listen": addrs[0], "health_listen": addrs[1], "data_dir": dir, "store": map[string]string{"postgres": dsn},
	}, answers("http://"+addrs[1]+"/readyz"))
	if err != nil {
		return nil, err
	}
	c := &controlPlane{Process: p, url: "https://" + addrs[0], caFile: filepath.Join(dir, "server-ca.pem")}
	platform, err := icpdev.Info{ServerURL: c.url, ServerCAFile: c.caFile, AdminTokenFile: filepath.Join(dir, "admin.token")}.Admin()
	if err != nil {
		return nil, err
	}
	if err := c.setUp(ctx, platform); err != nil {
		return nil, err
	}
	c.idle, err = meter.Resident(p.PID)
	return c, err
}

// setUp makes the tenant and its administrator.
func (c *controlPlane) setUp(ctx context.Context, platform *icpdev.Admin) error {
	pem, err := os.ReadFile(c.caFile)
	if err != nil {
		return err
	}
	c.roots = x509.NewCertPool()
	if !c.roots.AppendCertsFromPEM(pem) {
		return fmt.Errorf("%s holds no certificate", c.caFile)
	}
	if _, err := platform.Do(ctx, http.MethodPost, "/api/v1/tenants", map[string]string{"id": tenant, "trust_domain": trustDomain}, nil); err != nil {
		return err
	}
	var token struct {
		Token string `json:"token"`
	}
	_, err = platform.Do(ctx, http.MethodPost, "/api/v1/tokens",
		map[string]string{"tenant_id": tenant, "name": "bench", "role": "tenant-admin"}, &token)
	c.admin = &icpdev.Admin{URL: c.url, Token: token.Token, HTTP: platform.HTTP}
	return err
}

// joinToken admits one agent of that name.
func (c *controlPlane) joinToken(ctx context.Context, node string) (string, error) {
	var token struct {
		Token string `json:"token"`
	}
	_, err := c.admin.Do(ctx, http.MethodPost, "/api/v1/join-tokens", map[string]string{"node_name": node}, &token)
	return token.Token, err
}

// entry registers a workload of a node and gives what the server made of it.
func (c *controlPlane) entry(ctx context.Context, node, path, selector string) (registered, error) {
	var made registered
	_, err := c.admin.Do(ctx, http.MethodPost, "/api/v1/workloads", icpdev.Entry{
		SPIFFEID: workloadID(path), ParentID: agentID(node), Selectors: []string{selector},
	}, &made)
	return made, err
}

// registered is what counts of a new entry.
type registered struct {
	ID       string `json:"id"`
	Revision int64  `json:"revision"`
}

func workloadID(path string) string { return "spiffe://" + trustDomain + path }
func agentID(node string) string    { return workloadID("/agent/" + node) }

// ownSelector is one that this process and those it starts have.
func ownSelector() string { return fmt.Sprintf("unix:uid:%d", os.Geteuid()) }

// node is a running icp-agent.
type node struct {
	*stage.Process
	socket string // as SPIFFE_ENDPOINT_SOCKET spells it
	idle   meter.Memory
}

const nodeName = "node1"

func (h *host) startAgent(ctx context.Context, c *controlPlane) (*node, error) {
	token, err := c.joinToken(ctx, nodeName)
	if err != nil {
		return nil, err
	}
	admin, err := address()
	if err != nil {
		return nil, err
	}
	socket := h.file("agent.sock")
	p, err := h.program("icp-agent", map[string]any{
		"socket_path": socket, "data_dir": h.file("agent"), "admin_listen": admin, "node_name": nodeName, "join_token": token,
		"server": map[string]string{"url": c.url, "ca_file": c.caFile},
	}, answers("http://"+admin+"/readyz"))
	if err != nil {
		return nil, err
	}
	idle, err := meter.Resident(p.PID)
	return &node{Process: p, socket: "unix://" + socket, idle: idle}, err
}

// startNode runs a server on SQLite and an agent.
func (h *host) startNode(ctx context.Context) (*controlPlane, *node, error) {
	c, err := h.startServer(ctx, "")
	if err != nil {
		return nil, nil, err
	}
	n, err := h.startAgent(ctx, c)
	return c, n, err
}
