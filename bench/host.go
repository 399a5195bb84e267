package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
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

// host is where the programs of one section run. They end with the section.
type host struct {
	t   stage.T
	dir string // theirs
	bin string // folder with our programs
}

func newHost(t stage.T, o options) *host {
	t.Helper()
	bin, err := filepath.Abs(o.bin)
	if err != nil {
		t.Fatalf("find our programs: %v", err)
	}
	return &host{t: t, dir: stage.Folder(t), bin: bin}
}

func (h *host) file(name string) string { return filepath.Join(h.dir, name) }

// write makes a file that is for this user alone and gives its path.
func (h *host) write(name string, content []byte) string {
	path := h.file(name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		h.t.Fatalf("%v", err)
	}
	return path
}

// launch runs cmd until the section ends and waits until it is ready.
func (h *host) launch(name string, cmd *exec.Cmd, ready func() error) *stage.Process {
	p := stage.Start(h.t, name, cmd)
	p.WaitReady(h.t, patience, ready)
	return p
}

// program runs one of ours with a configuration file.
func (h *host) program(name string, config map[string]any, ready func() error) *stage.Process {
	path := filepath.Join(h.bin, name)
	if _, err := os.Stat(path); err != nil {
		h.t.Fatalf("%v: run 'make build'", err)
	}
	raw, err := json.Marshal(config) // JSON is YAML
	if err != nil {
		h.t.Fatalf("write the configuration of %s: %v", name, err)
	}
	return h.launch(name, exec.Command(path, "--config", h.write(name+".yaml", raw)), ready)
}

// self runs another program that this one is, told by JSON on standard input.
func (h *host) self(name, command string, config any, ready func() error) *stage.Process {
	return h.launch(name, selfCommand(h.t.Context(), h.t, command, config), ready)
}

func selfCommand(ctx context.Context, t stage.T, command string, config any) *exec.Cmd {
	self, err := os.Executable()
	if err != nil {
		t.Fatalf("find this program: %v", err)
	}
	in, err := json.Marshal(config)
	if err != nil {
		t.Fatalf("tell %s what to do: %v", command, err)
	}
	cmd := exec.CommandContext(ctx, self, command)
	cmd.Stdin = bytes.NewReader(in)
	return cmd
}

// address gives a loopback address for a program to listen on.
func (h *host) address() string { return loopback(stage.FreePort(h.t)) }

func loopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

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
func (h *host) startServer(dsn string) *controlPlane {
	listen, health, dir := h.address(), h.address(), h.file("server")
	p := h.program("icp-server", map[string]any{
		"listen": listen, "health_listen": health, "data_dir": dir, "store": map[string]string{"postgres": dsn},
	}, answers("http://"+health+"/readyz"))
	c := &controlPlane{Process: p, url: "https://" + listen, caFile: filepath.Join(dir, "server-ca.pem")}
	platform, err := icpdev.Info{ServerURL: c.url, ServerCAFile: c.caFile, AdminTokenFile: filepath.Join(dir, "admin.token")}.Admin()
	if err == nil {
		err = c.setUp(h.t.Context(), platform)
	}
	if err != nil {
		h.t.Fatalf("make a tenant: %v", err)
	}
	c.idle = h.resident(p)
	return c
}

// resident reads what a program holds.
func (h *host) resident(p *stage.Process) meter.Memory {
	m, err := meter.Resident(p.PID)
	if err != nil {
		h.t.Fatalf("%v", err)
	}
	return m
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

func (h *host) startAgent(c *controlPlane) *node {
	token, err := c.joinToken(h.t.Context(), nodeName)
	if err != nil {
		h.t.Fatalf("get a join token: %v", err)
	}
	admin, socket := h.address(), h.file("agent.sock")
	p := h.program("icp-agent", map[string]any{
		"socket_path": socket, "data_dir": h.file("agent"), "admin_listen": admin, "node_name": nodeName, "join_token": token,
		"server": map[string]string{"url": c.url, "ca_file": c.caFile},
	}, answers("http://"+admin+"/readyz"))
	return &node{Process: p, socket: "unix://" + socket, idle: h.resident(p)}
}

// startNode runs a server on SQLite and an agent.
func (h *host) startNode() (*controlPlane, *node) {
	c := h.startServer("")
	return c, h.startAgent(c)
}
