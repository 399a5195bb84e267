package workload

import (
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/authsec-ai/icp/e2e/devtest"
	"github.com/authsec-ai/icp/e2e/programs"
	"github.com/authsec-ai/icp/e2e/stage"
)

const nodeName = "node-1"

// startServer runs a server with one tenant.
func startServer(t *testing.T) *programs.Tenant {
	t.Helper()
	return programs.StartServer(t).NewTenant(t, "acme", "acme.example")
}

// TestServerDown kills the server under a serving agent.
func TestServerDown(t *testing.T) {
	tenant := startServer(t)
	s := tenant.Server
	a := s.NewAgent(t, tenant.JoinToken(t, nodeName))
	a.Start(t)
	a.WaitReady(t, devtest.Patience, func() error { // attested, and nobody is registered
		_, err := workloadapi.FetchX509SVID(t.Context(), workloadapi.WithAddr(a.Socket))
		if status.Code(err) != codes.PermissionDenied {
			return fmt.Errorf("got %v, want PermissionDenied", err)
		}
		return nil
	})
	tenant.Entry(t, nodeName, "/first")
	a.Await(t, "/first")
	audience := jwtsvid.Params{Audience: "known"}
	if _, err := workloadapi.FetchJWTSVID(t.Context(), audience, workloadapi.WithAddr(a.Socket)); err != nil {
		t.Fatal(err)
	}
	s.Kill()
	t.Run("AG-9", func(t *testing.T) {
		a.Await(t, "/first")
		if _, err := workloadapi.FetchJWTSVID(t.Context(), audience, workloadapi.WithAddr(a.Socket)); err != nil {
			t.Errorf("a token that was fetched before: %v", err)
		}
	})
	t.Run("a token that is not here", func(t *testing.T) {
		_, err := workloadapi.FetchJWTSVID(t.Context(), jwtsvid.Params{Audience: "new"}, workloadapi.WithAddr(a.Socket))
		if status.Code(err) != codes.Unavailable {
			t.Errorf("got %v, want Unavailable", err)
		}
	})
	t.Run("the agent says so", func(t *testing.T) {
		stage.Eventually(t, devtest.Patience, func() error { return says(a.Process, "not in sync with the server; serving what is here") })
	})
	t.Run("the command line says so", func(t *testing.T) {
		cmd := exec.Command(stage.Program(t, "icp"), "--url", s.URL, "--ca-file", s.CAFile, "--token-file", s.TokenFile, "--tenant", tenant.ID, "entry", "list")
		line := oneLine(t, cmd, 6)
		if !strings.Contains(line, strings.TrimPrefix(s.URL, "https://")) {
			t.Errorf("it says %q; want it to name the server", line)
		}
	})
	s.Start(t)
	tenant.Entry(t, nodeName, "/second")
	a.Await(t, "/first", "/second")
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
	tenant := startServer(t)
	s := tenant.Server
	token := tenant.JoinToken(t, nodeName)
	a := s.NewAgent(t, token)
	a.Start(t)
	tenant.AwaitNode(t, a, nodeName)
	tenant.Entry(t, nodeName, "/workload")
	a.Await(t, "/workload")
	before := nodeOf(t, tenant)
	a.Kill()
	t.Run("restart without a token", func(t *testing.T) {
		a.Configure(t, "")
		a.Start(t)
		a.Await(t, "/workload")
		if after := nodeOf(t, tenant); after.ID != tenant.AgentID(nodeName) || after.Serial != before.Serial {
			t.Errorf("the node was %+v and is %+v; want the same, with the SVID that was saved", before, after)
		}
	})
	t.Run("T-01/refused", func(t *testing.T) { // another node, the same token
		thief := s.NewAgent(t, token)
		thief.Start(t)
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
		if now := nodeOf(t, tenant); now.Serial != before.Serial {
			t.Errorf("the node's SVID changed from %s to %s", before.Serial, now.Serial)
		}
	})
	t.Run("T-01/twin", func(t *testing.T) {
		tenant.StartAgent(t, "node-2")
	})
	t.Run("no token, no identity", func(t *testing.T) {
		bare := s.NewAgent(t, "")
		bare.Start(t)
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

func nodeOf(t *testing.T, tenant *programs.Tenant) node {
	t.Helper()
	var n node
	tenant.Server.Do(t, http.MethodGet, "/api/v1/agents/"+nodeName+"?tenant_id="+tenant.ID, nil, &n)
	if n.Serial == "" {
		t.Fatalf("the server gives no serial of the node: %+v", n)
	}
	return n
}
