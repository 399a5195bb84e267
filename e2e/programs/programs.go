// Package programs runs icp-server and icp-agent as a user does, for tests:
// processes of their own, with configuration files, on free ports.
package programs

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/authsec-ai/icp/e2e/devtest"
	"github.com/authsec-ai/icp/e2e/icpdev"
	"github.com/authsec-ai/icp/e2e/stage"
)

// Server is an icp-server that can be killed and started again.
type Server struct {
	*stage.Process
	URL       string
	CAFile    string // what its TLS certificate is verified by
	TokenFile string // of the platform administrator
	Admin     *icpdev.Admin

	config string // its file
}

// StartServer makes a server on a folder and ports of its own.
func StartServer(t stage.T) *Server {
	t.Helper()
	dir := stage.Folder(t)
	data := filepath.Join(dir, "server")
	s := &Server{
		config: filepath.Join(dir, "server.yaml"), URL: fmt.Sprintf("https://127.0.0.1:%d", stage.FreePort(t)),
		CAFile: filepath.Join(data, "server-ca.pem"), TokenFile: filepath.Join(data, "admin.token"),
	}
	write(t, s.config, fmt.Sprintf("listen: %s\ndata_dir: %s\nhealth_listen: 127.0.0.1:%d\n",
		strings.TrimPrefix(s.URL, "https://"), data, stage.FreePort(t)))
	s.Start(t)
	return s
}

// Start starts the server again, on the same data.
func (s *Server) Start(t stage.T) {
	t.Helper()
	s.Process = stage.Start(t, "icp-server", exec.Command(stage.Program(t, "icp-server"), "--config", s.config))
	s.WaitReady(t, devtest.Patience, func() error {
		admin, err := icpdev.Info{ServerURL: s.URL, ServerCAFile: s.CAFile, AdminTokenFile: s.TokenFile}.Admin()
		if err != nil {
			return err
		}
		s.Admin = admin
		_, err = admin.Do(t.Context(), http.MethodGet, "/healthz", nil, nil)
		return err
	})
}

// Do makes one request as the platform administrator; a refusal fails the test.
func (s *Server) Do(t stage.T, method, path string, body, answer any) {
	t.Helper()
	if _, err := s.Admin.Do(t.Context(), method, path, body, answer); err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
}

// Tenant is one of a Server's.
type Tenant struct {
	Server      *Server
	ID          string
	TrustDomain string
}

// NewTenant makes a tenant with one trust domain.
func (s *Server) NewTenant(t stage.T, id, trustDomain string) *Tenant {
	t.Helper()
	s.Do(t, http.MethodPost, "/api/v1/tenants", map[string]string{"id": id, "trust_domain": trustDomain}, nil)
	return &Tenant{s, id, trustDomain}
}

// SPIFFEID gives the ID with a path.
func (n *Tenant) SPIFFEID(path string) string { return "spiffe://" + n.TrustDomain + path }

// AgentID gives the ID of a node's agent.
func (n *Tenant) AgentID(node string) string { return n.SPIFFEID("/agent/" + node) }

// JoinToken makes a token for a node.
func (n *Tenant) JoinToken(t stage.T, node string) string {
	t.Helper()
	var made struct{ Token string }
	n.Server.Do(t, http.MethodPost, "/api/v1/join-tokens",
		map[string]string{"tenant_id": n.ID, "node_name": node, "ttl": "10m"}, &made)
	return made.Token
}

// Entry registers an ID of this process's user on a node.
func (n *Tenant) Entry(t stage.T, node, path string) {
	t.Helper()
	n.Server.Do(t, http.MethodPost, "/api/v1/workloads", map[string]any{
		"tenant_id": n.ID, "spiffe_id": n.SPIFFEID(path), "parent_id": n.AgentID(node),
		"selectors": []string{fmt.Sprintf("unix:uid:%d", os.Getuid())},
	}, nil)
}

// Agent is an icp-agent that can be killed and started again.
type Agent struct {
	*stage.Process
	Socket string // as SPIFFE_ENDPOINT_SOCKET spells it

	server *Server
	dir    string
}

// NewAgent configures an agent of the server; a join token says whose it is, and
// may be empty.
func (s *Server) NewAgent(t stage.T, token string) *Agent {
	t.Helper()
	dir := stage.Folder(t)
	a := &Agent{Socket: "unix://" + filepath.Join(dir, "run", "agent.sock"), server: s, dir: dir}
	a.Configure(t, token)
	return a
}

// Configure writes the agent's configuration, with this join token.
func (a *Agent) Configure(t stage.T, token string) {
	t.Helper()
	write(t, a.config(), fmt.Sprintf(`socket_path: %s
data_dir: %s
admin_listen: 127.0.0.1:%d
server:
  url: %s
  ca_file: %s
join_token: %q
`, strings.TrimPrefix(a.Socket, "unix://"), filepath.Join(a.dir, "agent"), stage.FreePort(t), a.server.URL, a.server.CAFile, token))
}

func (a *Agent) config() string { return filepath.Join(a.dir, "agent.yaml") }

// Start starts the agent.
func (a *Agent) Start(t stage.T) {
	t.Helper()
	a.Process = stage.Start(t, "icp-agent", exec.Command(stage.Program(t, "icp-agent"), "--config", a.config()))
}

// StartAgent starts an agent of a node and waits until the server knows it.
func (n *Tenant) StartAgent(t stage.T, node string) *Agent {
	t.Helper()
	a := n.Server.NewAgent(t, n.JoinToken(t, node))
	a.Start(t)
	n.AwaitNode(t, a, node)
	return a
}

// AwaitNode waits until the server knows the agent by the node's name.
func (n *Tenant) AwaitNode(t stage.T, a *Agent, node string) {
	t.Helper()
	a.WaitReady(t, devtest.Patience, func() error {
		code, err := n.Server.Admin.Do(t.Context(), http.MethodGet, "/api/v1/agents/"+node+"?tenant_id="+n.ID, nil, nil)
		if code != http.StatusOK {
			return fmt.Errorf("the server does not know %s: %w", node, err)
		}
		return nil
	})
}

// Await waits until this process is served the IDs with these paths, and no
// others, and gives what it is served.
func (a *Agent) Await(t stage.T, paths ...string) *workloadapi.X509Context {
	t.Helper()
	var served *workloadapi.X509Context
	a.WaitReady(t, devtest.Patience, func() (err error) {
		if served, err = workloadapi.FetchX509Context(t.Context(), workloadapi.WithAddr(a.Socket)); err != nil {
			return err
		}
		var got []string
		for _, svid := range served.SVIDs {
			got = append(got, svid.ID.Path())
		}
		if fmt.Sprint(got) != fmt.Sprint(paths) {
			return fmt.Errorf("served are %v, want %v", got, paths)
		}
		return nil
	})
	return served
}

func write(t stage.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatalf("configure a program: %v", err)
	}
}
