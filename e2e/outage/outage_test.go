// Package outage runs a real agent before a real server on one clock that the
// test moves: join token, attestation, sync, issuing, and what happens when one
// of the two is away for hours.
package outage

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/authsec-ai/icp/agent"
	"github.com/authsec-ai/icp/agent/workload"
	"github.com/authsec-ai/icp/agent/workload/unix"
	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/clock"
	"github.com/authsec-ai/icp/internal/telemetry"
	"github.com/authsec-ai/icp/server"
	"github.com/authsec-ai/icp/server/ca"
	"github.com/authsec-ai/icp/server/keys/disk"
	"github.com/authsec-ai/icp/server/nodes"
	"github.com/authsec-ai/icp/server/nodes/jointoken"
	"github.com/authsec-ai/icp/server/registry"
	"github.com/authsec-ai/icp/server/servertls"
	"github.com/authsec-ai/icp/server/store"
	"github.com/authsec-ai/icp/server/store/sqlite"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	limit       = 30 * time.Second
	tenant      = "dev"
	trustDomain = "dev.example"
	node        = "node1"
)

// plane is a server that can go away and come back with all that it knew.
type plane struct {
	*server.Server
	t     *testing.T
	dir   string
	port  int
	clock clock.Clock
	roots *x509.CertPool
	stop  func()
}

func startPlane(t *testing.T, c clock.Clock) *plane {
	t.Helper()
	p := &plane{t: t, dir: t.TempDir(), port: stage.FreePort(t), clock: c, stop: func() {}}
	p.up()
	t.Cleanup(func() { p.stop() })
	return p
}

func (p *plane) up() {
	p.t.Helper()
	tel := newTelemetry(p.t, "server")
	db, err := sqlite.Open(context.Background(), filepath.Join(p.dir, "icp.db"), sqlite.Options{Log: tel.Log})
	must(p.t, err)
	custody, err := disk.Open(filepath.Join(p.dir, "keys"))
	must(p.t, err)
	authority, err := ca.New(ca.Config{Store: db, Custody: custody, Now: p.clock.Now, Rand: rand.Reader, Log: tel.Log, Meter: tel.Meter})
	must(p.t, err)
	cert, caFile, err := servertls.LoadOrCreate(p.dir, []string{"127.0.0.1"}, time.Now())
	must(p.t, err)
	p.roots = loadRoots(p.t, caFile)
	p.Server, err = server.New(server.Config{
		Listen: fmt.Sprintf("127.0.0.1:%d", p.port), Store: db, CA: authority, Telemetry: tel,
		TLSCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &cert, nil },
		Verifiers:      map[string]nodes.Verifier{jointoken.Method: jointoken.Verifier{Tokens: db}},
		Now:            p.clock.Now, Random: rand.Reader, DrainTimeout: time.Second,
	})
	must(p.t, err)
	_, err = p.Listen()
	must(p.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	p.stop = sync.OnceFunc(func() {
		cancel()
		ended := <-done
		authority.Close()
		if err := errors.Join(ended, db.Close()); err != nil {
			p.t.Errorf("stop the server: %v", err)
		}
	})
}

func newTelemetry(t *testing.T, name string) *telemetry.Telemetry {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), name+".log"))
	must(t, err)
	tel, err := telemetry.New(name, log, slog.LevelInfo)
	must(t, err)
	t.Cleanup(func() {
		if raw, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("%s logged:\n%s", name, raw)
		}
		_ = log.Close()
	})
	return tel
}

func loadRoots(t *testing.T, path string) *x509.CertPool {
	t.Helper()
	raw, err := os.ReadFile(path)
	must(t, err)
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(raw) {
		t.Fatalf("%s has no certificate", path)
	}
	return pool
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var by = registry.Caller{Actor: "system"}

// tenant makes the tenant with an entry for the user who runs the test, and
// gives a join token for the node.
func (p *plane) tenant() string {
	p.t.Helper()
	ctx := context.Background()
	_, err := p.Registry.CreateTenant(ctx, by, tenant, trustDomain, store.Settings{})
	must(p.t, err)
	parent, err := p.Registry.NodeID(ctx, tenant, node)
	must(p.t, err)
	_, err = p.Registry.CreateEntry(ctx, by, tenant, identity.Spec{
		SPIFFEID: spiffeid.RequireFromString("spiffe://" + trustDomain + "/me"), ParentID: parent,
		Selectors: identity.NewSelectors(identity.Selector{Type: "unix", Value: fmt.Sprint("uid:", os.Getuid())}),
	})
	must(p.t, err)
	_, token, err := p.Registry.CreateJoinToken(ctx, by, tenant, node, time.Hour)
	must(p.t, err)
	return token
}

// agentConfig is one for an agent that has never run.
func (p *plane) agentConfig(token string) agent.Config {
	p.t.Helper()
	dir, err := os.MkdirTemp("", "outage")
	must(p.t, err)
	p.t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return agent.Config{
		SocketPath: filepath.Join(dir, "agent.sock"), DataDir: filepath.Join(dir, "data"),
		ServerURL: fmt.Sprintf("https://127.0.0.1:%d", p.port), ServerRoots: p.roots, JoinToken: token, NodeName: node,
		Attestors: workload.Attestors{"unix": unix.New()}, Telemetry: newTelemetry(p.t, "agent"), Clock: p.clock,
	}
}

func runAgent(t *testing.T, cfg agent.Config) (*agent.Agent, func()) {
	t.Helper()
	a, err := agent.New(cfg)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("agent: %v", err)
		}
	})
	t.Cleanup(stop)
	return a, stop
}

func fetch(cfg agent.Config) (*x509svid.SVID, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return workloadapi.FetchX509SVID(ctx, workloadapi.WithAddr("unix://"+cfg.SocketPath))
}

// awaits moves the clock a little at a time until f has no error: what waits for
// a pause to end gets on.
func awaits(t *testing.T, c *clock.Manual, f func() error) {
	t.Helper()
	stage.Eventually(t, limit, func() error {
		c.Advance(100 * time.Millisecond)
		return f()
	})
}

// attestations counts how often the server attested and renewed the node.
func (p *plane) attestations() (attested, renewed int) {
	p.t.Helper()
	events, err := p.Registry.Events(context.Background(), tenant, 0, 1000)
	must(p.t, err)
	for _, ev := range events {
		switch ev.Action {
		case "node.attest":
			attested++
		case "node.renew":
			renewed++
		}
	}
	return attested, renewed
}

func isServed(cfg agent.Config, c clock.Clock) error {
	svid, err := fetch(cfg)
	if err != nil {
		return err
	}
	if !c.Now().Before(svid.Certificates[0].NotAfter) {
		return fmt.Errorf("the SVID that is served ended at %s", svid.Certificates[0].NotAfter)
	}
	return nil
}

// The server is away for two hours, longer than any SVID lives. Workloads are
// told to wait, and everything comes back without a new attestation.
func TestServerAwayForTwoHours(t *testing.T) {
	c := clock.NewManual(time.Now())
	p := startPlane(t, c)
	cfg := p.agentConfig(p.tenant())
	a, _ := runAgent(t, cfg)
	awaits(t, c, func() error { return isServed(cfg, c) })
	if want := "spiffe://" + trustDomain + "/agent/" + node; a.ID().String() != want {
		t.Fatalf("NA-8: agent is %s, want %s", a.ID(), want)
	}
	p.stop()
	if err := isServed(cfg, c); err != nil {
		t.Fatalf("nothing is served while the server is away: %v", err)
	}
	for range 120 {
		c.Advance(time.Minute)
	}
	if _, err := fetch(cfg); status.Code(err) != codes.Unavailable && status.Code(err) != codes.DeadlineExceeded {
		t.Fatalf("got %v from an agent that has nothing valid", err)
	}
	p.up()
	awaits(t, c, func() error { return isServed(cfg, c) })
	if attested, renewed := p.attestations(); attested != 1 || renewed == 0 {
		t.Fatalf("attested %d times and renewed %d times", attested, renewed)
	}
}

// The agent is away for two hours: it comes back by proof of its key.
func TestAgentAwayForTwoHours(t *testing.T) {
	c := clock.NewManual(time.Now())
	p := startPlane(t, c)
	cfg := p.agentConfig(p.tenant())
	_, stop := runAgent(t, cfg)
	awaits(t, c, func() error { return isServed(cfg, c) })
	stop()
	c.Advance(2 * time.Hour)
	runAgent(t, cfg)
	awaits(t, c, func() error { return isServed(cfg, c) })
	if attested, renewed := p.attestations(); attested != 1 || renewed != 1 {
		t.Fatalf("attested %d times and renewed %d times", attested, renewed)
	}
}

// NA-10: over three lifetimes the identity is renewed and never attested anew.
func TestThreeLifetimes(t *testing.T) {
	c := clock.NewManual(time.Now())
	p := startPlane(t, c)
	cfg := p.agentConfig(p.tenant())
	runAgent(t, cfg)
	awaits(t, c, func() error { return isServed(cfg, c) })
	for lifetime := range 3 {
		_, before := p.attestations()
		began := c.Now()
		stage.Eventually(t, limit, func() error {
			c.Advance(20 * time.Second)
			if _, now := p.attestations(); now == before {
				return fmt.Errorf("the agent's SVID is not renewed in lifetime %d", lifetime)
			}
			return isServed(cfg, c)
		})
		if took := c.Now().Sub(began); took > 50*time.Minute {
			t.Fatalf("NA-10: renewed after %s of an hour", took)
		}
	}
	if attested, _ := p.attestations(); attested != 1 {
		t.Fatalf("NA-10: attested %d times", attested)
	}
}

// A banned node's workloads lose what they have, and it does not come back.
func TestBannedNode(t *testing.T) {
	c := clock.NewManual(time.Now())
	p := startPlane(t, c)
	cfg := p.agentConfig(p.tenant())
	runAgent(t, cfg)
	awaits(t, c, func() error { return isServed(cfg, c) })
	must(t, p.Registry.BanNode(context.Background(), by, tenant, node))
	awaits(t, c, func() error {
		if _, err := fetch(cfg); status.Code(err) != codes.PermissionDenied {
			return fmt.Errorf("T-27: a banned node's workload got %w", err)
		}
		return nil
	})
	c.Advance(time.Hour)
	if _, err := fetch(cfg); status.Code(err) != codes.PermissionDenied {
		t.Fatalf("T-27: a banned node's workload got %v", err)
	}
}

// The answer to a renewal is lost on its way, or the agent dies before it has
// saved it: the SVID before is good for coming back.
func TestLostRenewal(t *testing.T) {
	c := clock.NewManual(time.Now())
	p := startPlane(t, c)
	cfg := p.agentConfig(p.tenant())
	_, stop := runAgent(t, cfg)
	awaits(t, c, func() error { return isServed(cfg, c) })
	sealed := filepath.Join(cfg.DataDir, "agent-identity.sealed")
	before, err := os.ReadFile(sealed)
	must(t, err)
	stage.Eventually(t, limit, func() error {
		c.Advance(20 * time.Second)
		if _, renewed := p.attestations(); renewed == 0 {
			return errors.New("not renewed yet")
		}
		return nil
	})
	stop()
	must(t, os.WriteFile(sealed, before, 0o600))
	c.Advance(time.Hour)
	runAgent(t, cfg)
	awaits(t, c, func() error { return isServed(cfg, c) })
	if attested, renewed := p.attestations(); attested != 1 || renewed != 2 {
		t.Fatalf("attested %d times and renewed %d times", attested, renewed)
	}
}
