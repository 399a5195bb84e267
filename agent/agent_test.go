package agent_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/authsec-ai/icp/agent"
	"github.com/authsec-ai/icp/agent/servertest"
	"github.com/authsec-ai/icp/agent/workload"
	"github.com/authsec-ai/icp/agent/workload/unix"
	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/clock"
	"github.com/authsec-ai/icp/internal/telemetry"
	"github.com/authsec-ai/icp/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const limit = 20 * time.Second

// running is an agent that runs before a server of the test's.
type running struct {
	*agent.Agent
	cfg  agent.Config
	log  *buffer
	stop func() error // ends it and gives what Run gave
}

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// config is one for a new agent of server.
func config(t *testing.T, server *servertest.Server) agent.Config {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return agent.Config{
		SocketPath: filepath.Join(dir, "agent.sock"), DataDir: filepath.Join(dir, "data"),
		ServerURL: server.URL(), ServerRoots: server.Roots, JoinToken: servertest.Token, NodeName: "node1",
		Attestors: workload.Attestors{"unix": unix.New()}, AdminAddress: "127.0.0.1:0",
	}
}

func run(t *testing.T, cfg agent.Config) *running {
	t.Helper()
	r := &running{cfg: cfg, log: &buffer{}}
	tel, err := telemetry.New("icp-agent", r.log, slog.LevelDebug)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Telemetry = tel
	r.Agent, err = agent.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	r.stop = sync.OnceValue(func() error {
		cancel()
		return errors.Join(<-done, tel.Close(context.Background()))
	})
	t.Cleanup(func() { _ = r.stop() })
	return r
}

func (r *running) addr() workloadapi.ClientOption {
	return workloadapi.WithAddr("unix://" + r.cfg.SocketPath)
}

func (r *running) ready(t *testing.T) {
	t.Helper()
	stage.Eventually(t, limit, func() error {
		if !r.Ready() {
			return fmt.Errorf("the agent is not ready; it logged:\n%s", r.log)
		}
		return nil
	})
}

// own is an entry for the process that runs the test.
func own(n int) identity.Entry {
	return identity.Entry{
		ID: fmt.Sprintf("entry-%d", n), CreatedAt: time.Unix(int64(n), 0).UTC(),
		Spec: identity.Spec{
			SPIFFEID: spiffeid.RequireFromString(fmt.Sprintf("spiffe://%s/own/%d", servertest.TrustDomain, n)),
			Selectors: identity.NewSelectors(
				identity.Selector{Type: "unix", Value: fmt.Sprint("uid:", os.Getuid())},
			),
		},
	}
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	stage.Eventually(t, limit, func() error {
		if !f() {
			return errors.New(what)
		}
		return nil
	})
}

// A workload with the plain SPIFFE library: join token, attestation, sync,
// issuing, rotation by an entry's change, deletion.
func TestWorkload(t *testing.T) {
	server := servertest.Start(t, clock.System{}, servertest.Settings{})
	server.Put(own(1))
	r := run(t, config(t, server))
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(r.addr()))
	if err != nil {
		t.Fatalf("%v; the agent logged:\n%s", err, r.log)
	}
	defer source.Close()
	svid, err := source.GetX509SVID()
	if err != nil || svid.ID != own(1).SPIFFEID {
		t.Fatalf("%v, %v", svid, err)
	}
	if r.ID().String() != servertest.AgentID {
		t.Fatalf("NA-8: agent is %s", r.ID())
	}
	t.Run("AG-3", func(t *testing.T) { // a change is pushed
		changed := own(1)
		changed.Hint = "new"
		server.Put(changed)
		eventually(t, "the change does not arrive", func() bool {
			now, err := source.GetX509SVID()
			return err == nil && now.Hint == "new"
		})
	})
	t.Run("jwt", func(t *testing.T) {
		source, err := workloadapi.NewJWTSource(ctx, workloadapi.WithClientOptions(r.addr()))
		if err != nil {
			t.Fatal(err)
		}
		defer source.Close()
		token, err := source.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "someone"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := jwtsvid.ParseAndValidate(token.Marshal(), source, []string{"someone"}); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("AG-7", func(t *testing.T) {
		var dump struct{ Attestations []string }
		get(t, r.AdminURL()+"/debug/cache", &dump)
		prefix := fmt.Sprintf("%d:", os.Getpid())
		if len(dump.Attestations) == 0 || !strings.HasPrefix(dump.Attestations[0], prefix) {
			t.Fatalf("keys %v", dump.Attestations)
		}
	})
	t.Run("WLAPI-17/refused", func(t *testing.T) { // deletion ends it
		server.Delete("entry-1")
		eventually(t, "the deletion does not arrive", func() bool {
			_, err := workloadapi.FetchX509SVID(ctx, r.addr())
			return status.Code(err) == codes.PermissionDenied
		})
	})
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(r.log.String(), servertest.Token) {
		t.Fatal("T-45: the join token is in the log")
	}
}

func get(t *testing.T, url string, into any) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	defer http.DefaultClient.CloseIdleConnections()
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		t.Fatal(err)
	}
}

// NA-9: a restart within the lifetime attests nothing; the files hold no key in
// the clear; another key file means a clean new attestation.
func TestRestart(t *testing.T) {
	server := servertest.Start(t, clock.System{}, servertest.Settings{})
	server.Put(own(1))
	cfg := config(t, server)
	first := run(t, cfg)
	first.ready(t)
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	again := run(t, cfg)
	again.ready(t)
	if err := again.stop(); err != nil {
		t.Fatal(err)
	}
	if n := server.Calls(wire.PathAttest); n != 1 {
		t.Fatalf("NA-9: attested %d times", n)
	}
	noKeysIn(t, cfg.DataDir)
	if err := os.WriteFile(filepath.Join(cfg.DataDir, "agent-seal.key"), bytes.Repeat([]byte{7}, 32), 0o600); err != nil {
		t.Fatal(err)
	}
	server.ForgetNode()
	server.RenewToken()
	wrong := run(t, cfg)
	wrong.ready(t)
	if n := server.Calls(wire.PathAttest); n != 2 {
		t.Fatalf("NA-9: attested %d times with another key", n)
	}
}

func noKeysIn(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %04o", path, info.Mode().Perm())
		}
		raw, err := os.ReadFile(path)
		// The object identifier of P-256 is in every PKCS #8 and certificate of such a key.
		if bytes.Contains(raw, []byte{0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}) || bytes.Contains(raw, []byte("PRIVATE KEY")) ||
			bytes.Contains(raw, []byte("KoZIzj0DAQcD")) {
			t.Errorf("NA-9: %s has a key in the clear", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A banned agent's workloads lose what they have, at once.
func TestBan(t *testing.T) {
	server := servertest.Start(t, clock.System{}, servertest.Settings{})
	server.Put(own(1))
	r := run(t, config(t, server))
	r.ready(t)
	if _, err := workloadapi.FetchX509SVID(t.Context(), r.addr()); err != nil {
		t.Fatal(err)
	}
	server.Ban()
	eventually(t, "T-27: a banned agent still serves", func() bool {
		_, err := workloadapi.FetchX509SVID(t.Context(), r.addr())
		return status.Code(err) == codes.PermissionDenied
	})
}

// The server is away: what is here is served, and the stream comes back.
func TestServerAway(t *testing.T) {
	server := servertest.Start(t, clock.System{}, servertest.Settings{})
	server.Put(own(1))
	r := run(t, config(t, server))
	r.ready(t)
	if _, err := workloadapi.FetchX509SVID(t.Context(), r.addr()); err != nil {
		t.Fatal(err)
	}
	server.Down()
	if _, err := workloadapi.FetchX509SVID(t.Context(), r.addr()); err != nil {
		t.Fatalf("AG-9: nothing is served while the server is away: %v", err)
	}
	server.Up()
	server.Put(own(2))
	eventually(t, "the agent does not come back", func() bool {
		got, err := workloadapi.FetchX509SVIDs(t.Context(), r.addr())
		return err == nil && len(got) == 2
	})
}

// A clock that differs from the server's is worth one line, not one per frame.
func TestClockSkew(t *testing.T) {
	for name, c := range map[string]struct {
		server time.Duration // ahead of the agent
		lines  int
	}{"behind": {2 * time.Minute, 1}, "ahead": {-2 * time.Minute, 1}, "twin": {20 * time.Second, 0}} {
		t.Run(name, func(t *testing.T) {
			server := servertest.Start(t, clock.NewManual(time.Now().Add(c.server)), servertest.Settings{Heartbeat: time.Millisecond})
			server.Put(own(1))
			r := run(t, config(t, server))
			r.ready(t)
			for i := range 3 { // frames that come after one another
				server.Put(own(i + 2))
				eventually(t, "an entry does not arrive", func() bool {
					got, err := workloadapi.FetchX509SVIDs(t.Context(), r.addr())
					return err == nil && len(got) == i+2
				})
			}
			if n := strings.Count(r.log.String(), "clock differs from the server's; set it"); n != c.lines {
				t.Errorf("%d lines about the clock, want %d:\n%s", n, c.lines, r.log)
			}
		})
	}
}

// Before the first sync workloads are told to wait, not that they are nobody.
func TestServerNotThereYet(t *testing.T) {
	server := servertest.Start(t, clock.System{}, servertest.Settings{})
	server.Put(own(1))
	server.Down()
	r := run(t, config(t, server))
	_, err := workloadapi.FetchX509SVID(t.Context(), r.addr())
	if status.Code(err) != codes.Unavailable {
		t.Fatalf("WLEP-14: got %v", err)
	}
	server.Up()
	r.ready(t)
	if _, err := workloadapi.FetchX509SVID(t.Context(), r.addr()); err != nil {
		t.Fatal(err)
	}
}

// A join token that is not taken ends the agent with the server's reason.
func TestAttestationRefused(t *testing.T) {
	server := servertest.Start(t, clock.System{}, servertest.Settings{})
	cfg := config(t, server)
	cfg.JoinToken = "another"
	r := run(t, cfg)
	stage.Eventually(t, limit, func() error { return gone(cfg.SocketPath) })
	if err := r.stop(); err == nil || !strings.Contains(err.Error(), "join token is not valid") {
		t.Fatalf("got %v", err)
	}
}

func gone(path string) error {
	if _, err := os.Stat(path); err == nil {
		return fmt.Errorf("%s is still there", path)
	}
	return nil
}

func TestRefusals(t *testing.T) {
	server := servertest.Start(t, clock.System{}, servertest.Settings{})
	tel, err := telemetry.New("icp-agent", io.Discard, slog.LevelInfo)
	if err != nil {
		t.Fatal(err)
	}
	folder := func(cfg agent.Config) string { return filepath.Dir(cfg.SocketPath) }
	cases := map[string]struct {
		change func(*testing.T, *agent.Config)
		want   string // "" for an agent that is made
	}{
		"T-33/twin":     {func(*testing.T, *agent.Config) {}, ""},
		"relative-path": {func(_ *testing.T, c *agent.Config) { c.SocketPath = "agent.sock" }, "not absolute"},
		"long-path": {func(_ *testing.T, c *agent.Config) {
			c.SocketPath = "/tmp/" + strings.Repeat("a", 103)
		}, "the limit is 107"},
		"no-attestor":        {func(_ *testing.T, c *agent.Config) { c.Attestors = nil }, "attestor is required"},
		"no-data-folder":     {func(_ *testing.T, c *agent.Config) { c.DataDir = "" }, "data folder is required"},
		"T-51/plain-http":    {func(_ *testing.T, c *agent.Config) { c.ServerURL = "http://127.0.0.1:1" }, "not of the form https"},
		"admin-not-loopback": {func(_ *testing.T, c *agent.Config) { c.AdminAddress = "0.0.0.0:0" }, "not on loopback"},
		"T-33/refused/folder-symlinked": {func(t *testing.T, c *agent.Config) {
			link := folder(*c) + "-link"
			if err := os.Symlink(folder(*c), link); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.Remove(link) })
			c.SocketPath = link + "/agent.sock"
		}, "symbolic link"},
		"T-33/refused/folder-writable": {func(t *testing.T, c *agent.Config) {
			if err := os.Chmod(folder(*c), 0o777); err != nil {
				t.Fatal(err)
			}
		}, "written by others"},
		"T-33/refused/folder-of-another": {func(t *testing.T, c *agent.Config) {
			if err := os.Chown(folder(*c), 65534, 65534); err != nil {
				t.Fatal(err)
			}
		}, "belongs to another user"},
		"T-33/refused/data-folder-writable": {func(t *testing.T, c *agent.Config) {
			if err := os.Mkdir(c.DataDir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(c.DataDir, 0o770); err != nil {
				t.Fatal(err)
			}
		}, "chmod 700"},
		"not-a-socket": {func(t *testing.T, c *agent.Config) {
			if err := os.WriteFile(c.SocketPath, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "is not a socket"},
		"live-socket": {func(t *testing.T, c *agent.Config) {
			l, err := net.Listen("unix", c.SocketPath)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = l.Close() })
		}, "another agent serves"},
		"stale-socket/twin": {func(t *testing.T, c *agent.Config) {
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: c.SocketPath, Net: "unix"})
			if err != nil {
				t.Fatal(err)
			}
			l.SetUnlinkOnClose(false)
			_ = l.Close()
		}, ""},
		"key-file-open": {func(t *testing.T, c *agent.Config) {
			c.KeyFile = filepath.Join(folder(*c), "key")
			if err := os.WriteFile(c.KeyFile, make([]byte, 32), 0o644); err != nil {
				t.Fatal(err)
			}
		}, "chmod 600"},
		"key-file-short": {func(t *testing.T, c *agent.Config) {
			c.KeyFile = filepath.Join(folder(*c), "key")
			if err := os.WriteFile(c.KeyFile, make([]byte, 31), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "must have 32"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			cfg := config(t, server)
			cfg.Telemetry = tel
			c.change(t, &cfg)
			a, err := agent.New(cfg)
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				a.Close()
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
		})
	}
	t.Run("T-28/second-agent-on-one-folder", func(t *testing.T) {
		cfg := config(t, server)
		cfg.Telemetry = tel
		a, err := agent.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		cfg.SocketPath += "2"
		if _, err := agent.New(cfg); err == nil || !strings.Contains(err.Error(), "another agent uses the data folder") {
			t.Fatalf("got %v", err)
		}
	})
}

// A process that is refused again and again does not fill the log.
func TestRefusalsDoNotFillTheLog(t *testing.T) {
	server := servertest.Start(t, clock.System{}, servertest.Settings{})
	r := run(t, config(t, server))
	r.ready(t)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	client, err := workloadapi.New(ctx, r.addr())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	const many = 100
	for range many {
		if _, err := client.FetchX509SVID(ctx); status.Code(err) != codes.PermissionDenied {
			t.Fatal(err)
		}
	}
	if n := strings.Count(r.log.String(), "request refused"); n == 0 || n > many/2 {
		t.Errorf("%d lines in the log for %d refusals", n, many)
	}
}
