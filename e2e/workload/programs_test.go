package workload

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/authsec-ai/icp/e2e/devtest"
	"github.com/authsec-ai/icp/e2e/icpdev"
	"github.com/authsec-ai/icp/e2e/stage"
)

const (
	tenant      = "acme"
	trustDomain = "acme.example"
	nodeName    = "node-1"
	agentID     = "spiffe://" + trustDomain + "/agent/" + nodeName
)

// server is an icp-server that can be killed and started again.
type server struct {
	*stage.Process
	config string // its file
	url    string
	caFile string
	token  string // file of the platform admin's token
	admin  *icpdev.Admin
}

// startServer makes a server with one tenant, on a folder and ports of its own.
func startServer(t *testing.T) *server {
	t.Helper()
	dir := stage.Folder(t)
	data := filepath.Join(dir, "server")
	s := &server{
		config: filepath.Join(dir, "server.yaml"), url: fmt.Sprintf("https://127.0.0.1:%d", stage.FreePort(t)),
		caFile: filepath.Join(data, "server-ca.pem"), token: filepath.Join(data, "admin.token"),
	}
	write(t, s.config, fmt.Sprintf("listen: %s\ndata_dir: %s\nhealth_listen: 127.0.0.1:%d\n",
		strings.TrimPrefix(s.url, "https://"), data, stage.FreePort(t)))
	s.start(t)
	if _, err := s.admin.Do(t.Context(), http.MethodPost, "/api/v1/tenants",
		map[string]string{"id": tenant, "trust_domain": trustDomain}, nil); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *server) start(t *testing.T) {
	t.Helper()
	s.Process = stage.Start(t, "icp-server", exec.Command(stage.Program(t, "icp-server"), "--config", s.config))
	s.WaitReady(t, devtest.Patience, func() error {
		admin, err := icpdev.Info{ServerURL: s.url, ServerCAFile: s.caFile, AdminTokenFile: s.token}.Admin()
		if err != nil {
			return err
		}
		s.admin = admin
		_, err = admin.Do(t.Context(), http.MethodGet, "/healthz", nil, nil)
		return err
	})
}

// joinToken makes a token for a node.
func (s *server) joinToken(t *testing.T, node string) string {
	t.Helper()
	var made struct{ Token string }
	if _, err := s.admin.Do(t.Context(), http.MethodPost, "/api/v1/join-tokens",
		map[string]string{"tenant_id": tenant, "node_name": node, "ttl": "10m"}, &made); err != nil {
		t.Fatal(err)
	}
	return made.Token
}

// entry registers an ID of this process's user.
func (s *server) entry(t *testing.T, path string) {
	t.Helper()
	if _, err := s.admin.Do(t.Context(), http.MethodPost, "/api/v1/workloads", map[string]any{
		"tenant_id": tenant, "spiffe_id": "spiffe://" + trustDomain + path, "parent_id": agentID,
		"selectors": []string{fmt.Sprintf("unix:uid:%d", os.Getuid())},
	}, nil); err != nil {
		t.Fatal(err)
	}
}

// agent is an icp-agent that can be killed and started again.
type agent struct {
	*stage.Process
	config string
	socket string
}

// newAgent makes the configuration of an agent of s; token may be empty.
func newAgent(t *testing.T, s *server, token string) *agent {
	t.Helper()
	dir := stage.Folder(t)
	a := &agent{config: filepath.Join(dir, "agent.yaml"), socket: "unix://" + filepath.Join(dir, "run", "agent.sock")}
	a.configure(t, s, token)
	return a
}

func (a *agent) configure(t *testing.T, s *server, token string) {
	t.Helper()
	dir := filepath.Dir(a.config)
	write(t, a.config, fmt.Sprintf(`socket_path: %s
data_dir: %s
admin_listen: 127.0.0.1:%d
server:
  url: %s
  ca_file: %s
join_token: %q
`, strings.TrimPrefix(a.socket, "unix://"), filepath.Join(dir, "agent"), stage.FreePort(t), s.url, s.caFile, token))
}

func (a *agent) start(t *testing.T) {
	t.Helper()
	a.Process = stage.Start(t, "icp-agent", exec.Command(stage.Program(t, "icp-agent"), "--config", a.config))
}

// await waits until this process is served the IDs with these paths.
func (a *agent) await(t *testing.T, paths ...string) {
	t.Helper()
	a.WaitReady(t, devtest.Patience, func() error {
		svids, err := workloadapi.FetchX509SVIDs(t.Context(), workloadapi.WithAddr(a.socket))
		if err != nil {
			return err
		}
		var got []string
		for _, svid := range svids {
			got = append(got, svid.ID.Path())
		}
		if fmt.Sprint(got) != fmt.Sprint(paths) {
			return fmt.Errorf("served are %v, want %v", got, paths)
		}
		return nil
	})
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestServerDown kills the server under a serving agent.
func TestServerDown(t *testing.T) {
	s := startServer(t)
	a := newAgent(t, s, s.joinToken(t, nodeName))
	a.start(t)
	a.WaitReady(t, devtest.Patience, func() error { // attested, and nobody is registered
		_, err := workloadapi.FetchX509SVID(t.Context(), workloadapi.WithAddr(a.socket))
		if status.Code(err) != codes.PermissionDenied {
			return fmt.Errorf("got %v, want PermissionDenied", err)
		}
		return nil
	})
	s.entry(t, "/first")
	a.await(t, "/first")
	audience := jwtsvid.Params{Audience: "known"}
	if _, err := workloadapi.FetchJWTSVID(t.Context(), audience, workloadapi.WithAddr(a.socket)); err != nil {
		t.Fatal(err)
	}
	s.Kill()
	t.Run("AG-9", func(t *testing.T) {
		a.await(t, "/first")
		if _, err := workloadapi.FetchJWTSVID(t.Context(), audience, workloadapi.WithAddr(a.socket)); err != nil {
			t.Errorf("a token that was fetched before: %v", err)
		}
	})
	t.Run("a token that is not here", func(t *testing.T) {
		_, err := workloadapi.FetchJWTSVID(t.Context(), jwtsvid.Params{Audience: "new"}, workloadapi.WithAddr(a.socket))
		if status.Code(err) != codes.Unavailable {
			t.Errorf("got %v, want Unavailable", err)
		}
	})
	t.Run("the agent says so", func(t *testing.T) {
		stage.Eventually(t, devtest.Patience, func() error { return says(a.Process, "not in sync with the server; serving what is here") })
	})
	t.Run("the command line says so", func(t *testing.T) {
		cmd := exec.Command(stage.Program(t, "icp"), "--url", s.url, "--ca-file", s.caFile, "--token-file", s.token, "--tenant", tenant, "entry", "list")
		line := oneLine(t, cmd, 6)
		if !strings.Contains(line, strings.TrimPrefix(s.url, "https://")) {
			t.Errorf("it says %q; want it to name the server", line)
		}
	})
	s.start(t)
	s.entry(t, "/second")
	a.await(t, "/first", "/second")
}

// says looks for a line of a program's log.
func says(p *stage.Process, text string) error {
	if !strings.Contains(p.Tail(1<<20), text) {
		return fmt.Errorf("the log does not say %q", text)
	}
	return nil
}

// oneLine runs a command that must fail with this exit status and say why in
// one line.
func oneLine(t *testing.T, cmd *exec.Cmd, code int) string {
	t.Helper()
	out, err := cmd.Output()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != code || len(out) > 0 {
		t.Fatalf("%v: %v, standard output %q; want exit status %d and no output", cmd.Args, err, out, code)
	}
	line, rest, whole := strings.Cut(string(exit.Stderr), "\n")
	if !whole || rest != "" {
		t.Fatalf("it printed %q to standard error; want one line", exit.Stderr)
	}
	t.Log(line)
	return line
}

// TestAgentKilled has an agent come back by what it saved, and by nothing else.
func TestAgentKilled(t *testing.T) {
	s := startServer(t)
	token := s.joinToken(t, nodeName)
	a := newAgent(t, s, token)
	a.start(t)
	s.waitForNode(t, a, nodeName)
	s.entry(t, "/workload")
	a.await(t, "/workload")
	before := s.node(t)
	a.Kill()
	t.Run("restart without a token", func(t *testing.T) {
		a.configure(t, s, "")
		a.start(t)
		a.await(t, "/workload")
		if after := s.node(t); after.ID != agentID || after.Serial != before.Serial {
			t.Errorf("the node was %+v and is %+v; want the same, with the SVID that was saved", before, after)
		}
	})
	t.Run("T-01/refused", func(t *testing.T) { // another node, the same token
		thief := newAgent(t, s, token)
		thief.start(t)
		err := thief.Err()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 1 {
			t.Fatalf("it ended with %v, want exit status 1", err)
		}
		var own []string
		for line := range strings.Lines(thief.Tail(1 << 20)) {
			if !strings.HasPrefix(line, "{") { // not of the structured log
				own = append(own, line)
			}
		}
		if len(own) != 1 || !strings.HasPrefix(own[0], "icp-agent: ") || !strings.Contains(own[0], "join token is not known, used up or expired; ask an administrator for a new one") {
			t.Errorf("it printed %q; want one line with the reason and the remedy", own)
		}
		if now := s.node(t); now.Serial != before.Serial {
			t.Errorf("the node's SVID changed from %s to %s", before.Serial, now.Serial)
		}
	})
	t.Run("T-01/twin", func(t *testing.T) {
		other := newAgent(t, s, s.joinToken(t, "node-2"))
		other.start(t)
		s.waitForNode(t, other, "node-2")
	})
	t.Run("no token, no identity", func(t *testing.T) {
		bare := newAgent(t, s, "")
		bare.start(t)
		if err := bare.Err(); err == nil || says(bare.Process, "icp token create") != nil {
			t.Errorf("it ended with %v and printed %s; want the command that makes a token", err, bare.Tail(4096))
		}
	})
}

type node struct {
	ID     string `json:"id"`
	Serial string `json:"serial"`
	Status string `json:"status"`
}

func (s *server) node(t *testing.T) node {
	t.Helper()
	var n node
	if _, err := s.admin.Do(t.Context(), http.MethodGet, "/api/v1/agents/"+nodeName+"?tenant_id="+tenant, nil, &n); err != nil {
		t.Fatal(err)
	}
	if n.Serial == "" {
		t.Fatalf("the server gives no serial of the node: %+v", n)
	}
	return n
}

// waitForNode waits until the server knows the agent.
func (s *server) waitForNode(t *testing.T, a *agent, name string) {
	t.Helper()
	a.WaitReady(t, devtest.Patience, func() error {
		code, err := s.admin.Do(t.Context(), http.MethodGet, "/api/v1/agents/"+name+"?tenant_id="+tenant, nil, nil)
		if code != http.StatusOK {
			return fmt.Errorf("the server does not know %s: %w", name, err)
		}
		return nil
	})
}
