package node_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/authsec-ai/icp/agent/node"
	"github.com/authsec-ai/icp/agent/node/jointoken"
	"github.com/authsec-ai/icp/agent/servertest"
	"github.com/authsec-ai/icp/agent/upstream"
	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/clock"
	"github.com/authsec-ai/icp/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const limit = 20 * time.Second

// rig is one node before a server that the test controls.
type rig struct {
	t       *testing.T
	clock   *clock.Manual
	server  *servertest.Server
	cfg     node.Config
	changes atomic.Int64
}

func newRig(t *testing.T) *rig {
	t.Helper()
	c := clock.NewManual(time.Now().Truncate(time.Second))
	r := &rig{t: t, clock: c, server: servertest.Start(t, c, servertest.Settings{})}
	r.cfg = node.Config{
		Dir: filepath.Join(t.TempDir(), "data"), Evidence: jointoken.Evidence{Token: servertest.Token},
		Clock: c, Log: slog.New(slog.DiscardHandler), Jitter: func() float64 { return 0 },
		Changed: func() { r.changes.Add(1) },
	}
	return r
}

// load takes up the node as a starting agent does.
func (r *rig) load() (*node.Identity, *upstream.Client) {
	r.t.Helper()
	id, err := node.Load(r.cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	client, err := upstream.New(upstream.Config{
		URL: r.server.URL(), Roots: r.server.Roots, Certificate: id.Certificate, Rejected: id.Rejected,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(client.Close)
	return id, client
}

func (r *rig) bootstrap() (*node.Identity, *upstream.Client) {
	r.t.Helper()
	id, client := r.load()
	if err := id.Bootstrap(r.t.Context(), client); err != nil {
		r.t.Fatal(err)
	}
	return id, client
}

// run keeps the identity renewed until the test ends.
func (r *rig) run(id *node.Identity, client *upstream.Client) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- id.Run(ctx, renewing{client}) }()
	r.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Error(err)
		}
	})
}

// renewing has each request made on a new connection, as an agent does after
// each new SVID.
type renewing struct{ *upstream.Client }

func (c renewing) Renew(ctx context.Context, req wire.RenewRequest) (wire.AttestResponse, error) {
	c.Reconnect()
	return c.Client.Renew(ctx, req)
}

func (r *rig) eventually(f func() error) {
	r.t.Helper()
	stage.Eventually(r.t, limit, f)
}

// at waits until the next timer is at a time after the start.
func (r *rig) at(start time.Time, want time.Duration) {
	r.t.Helper()
	r.eventually(func() error {
		if next, ok := r.clock.Next(); !ok || !next.Equal(start.Add(want)) {
			return errors.New("the next timer is at " + next.Sub(start).String() + ", not at " + want.String())
		}
		return nil
	})
}

func serialOf(t *testing.T, id *node.Identity) string {
	t.Helper()
	cert, err := id.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	return cert.Leaf.SerialNumber.String()
}

func (r *rig) renewed(id *node.Identity, old string) {
	r.t.Helper()
	r.eventually(func() error {
		if serialOf(r.t, id) == old {
			return errors.New("not renewed")
		}
		return nil
	})
}

func (r *rig) counts(attests, renews int) {
	r.t.Helper()
	if a, n := r.server.Calls(wire.PathAttest), r.server.Calls(wire.PathRenew); a != attests || n != renews {
		r.t.Fatalf("%d attestations and %d renewals, want %d and %d", a, n, attests, renews)
	}
}

func TestFirstAttestation(t *testing.T) {
	r := newRig(t)
	id, client := r.load()
	if _, err := id.Certificate(); identity.CodeOf(err) != identity.Unavailable || !id.ID().IsZero() {
		t.Fatalf("an identity before the attestation: %v", err)
	}
	if err := id.Bootstrap(t.Context(), client); err != nil {
		t.Fatal(err)
	}
	if id.ID().String() != servertest.AgentID { // NA-8
		t.Fatalf("agent is %s", id.ID())
	}
	if r.changes.Load() != 1 {
		t.Fatalf("told of %d changes", r.changes.Load())
	}
}

func TestRestart(t *testing.T) {
	t.Run("NA-9/within-the-lifetime", func(t *testing.T) {
		r := newRig(t)
		first, _ := r.bootstrap()
		r.clock.Advance(30 * time.Minute)
		again, _ := r.bootstrap()
		if serialOf(t, first) != serialOf(t, again) {
			t.Fatal("a restart changed the SVID")
		}
		r.counts(1, 0)
	})
	t.Run("after-the-lifetime", func(t *testing.T) { // by proof of the key
		r := newRig(t)
		first, _ := r.bootstrap()
		r.clock.Advance(2 * time.Hour)
		again, _ := r.bootstrap()
		if serialOf(t, first) == serialOf(t, again) {
			t.Fatal("the expired SVID was kept")
		}
		r.counts(1, 1)
	})
	t.Run("renewal-is-due", func(t *testing.T) {
		r := newRig(t)
		r.bootstrap()
		r.clock.Advance(50 * time.Minute)
		id, client := r.bootstrap()
		old := serialOf(t, id)
		r.run(id, client)
		r.renewed(id, old)
		r.counts(1, 1)
	})
	t.Run("NA-9/wrong-key", func(t *testing.T) {
		r := newRig(t)
		r.bootstrap()
		overwrite(t, r.cfg.Dir, "agent-seal.key", make([]byte, 32))
		r.server.RenewToken()
		r.server.ForgetNode()
		r.bootstrap()
		r.counts(2, 0)
	})
	t.Run("NA-9/damaged", func(t *testing.T) {
		for name, damage := range map[string]func([]byte) []byte{
			"bit":   func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
			"cut":   func(b []byte) []byte { return b[:len(b)/2] },
			"empty": func([]byte) []byte { return nil },
			"other": func(b []byte) []byte { return []byte(strings.Repeat("x", len(b))) },
		} {
			r := newRig(t)
			r.bootstrap()
			path := filepath.Join(r.cfg.Dir, "agent-identity.sealed")
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			overwrite(t, r.cfg.Dir, "agent-identity.sealed", damage(raw))
			r.server.RenewToken()
			if _, _, err := r.tryBootstrap(); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			r.counts(2, 0)
		}
	})
}

func (r *rig) tryBootstrap() (*node.Identity, *upstream.Client, error) {
	id, client := r.load()
	return id, client, id.Bootstrap(r.t.Context(), client)
}

func overwrite(t *testing.T, dir, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// NA-10: three lifetimes, no new attestation; renewal is at 0.66 of each.
func TestRenewal(t *testing.T) {
	r := newRig(t)
	id, client := r.bootstrap()
	r.run(id, client)
	// What the server signs is back-dated by ten seconds, which are part of its life.
	const due = 3610 * time.Second * 66 / 100
	for range 5 {
		start, old := r.clock.Now(), serialOf(t, id)
		r.clock.Advance(due - 30*time.Second)
		r.at(start, due)
		r.clock.Advance(30 * time.Second)
		r.renewed(id, old)
	}
	r.counts(1, 5)
}

// The server is down at the renewal: it is tried again, with growing pauses.
func TestRenewalRetries(t *testing.T) {
	r := newRig(t)
	id, client := r.bootstrap()
	r.run(id, client)
	old := serialOf(t, id)
	r.server.Down()
	for range 80 { // also past the end of the SVID
		r.clock.Advance(time.Minute)
		r.eventually(func() error {
			if _, ok := r.clock.Next(); !ok {
				return errors.New("still trying")
			}
			return nil
		})
	}
	if serialOf(t, id) != old {
		t.Fatal("renewed by a server that is down")
	}
	r.server.Up()
	r.eventually(func() error {
		r.clock.Advance(time.Second)
		if serialOf(t, id) == old {
			return errors.New("not renewed")
		}
		return nil
	})
	r.counts(1, 1)
}

// A server that rejects the SVID has it renewed before it is due.
func TestRejected(t *testing.T) {
	r := newRig(t)
	id, client := r.bootstrap()
	r.run(id, client)
	old := serialOf(t, id)
	id.Rejected() // so soon it is about the one before
	r.clock.Advance(time.Minute)
	r.server.Refuse(func(path string) error {
		if path == wire.PathSign {
			return identity.Errorf(identity.Unauthenticated, "agent SVID has expired")
		}
		return nil
	})
	if _, err := client.Sign(t.Context(), wire.SignRequest{}); identity.CodeOf(err) != identity.Unauthenticated {
		t.Fatal(err)
	}
	r.renewed(id, old)
	r.counts(1, 1)
}

// A node that the server has forgotten attests anew, if it has the evidence; a
// banned one does not try.
func TestForgottenAndBanned(t *testing.T) {
	t.Run("forgotten", func(t *testing.T) {
		r := newRig(t)
		id, client := r.bootstrap()
		r.run(id, client)
		old := serialOf(t, id)
		r.server.ForgetNode()
		r.server.RenewToken()
		r.clock.Advance(45 * time.Minute)
		r.renewed(id, old)
		r.counts(2, 0)
	})
	t.Run("T-27/refused/banned", func(t *testing.T) {
		r := newRig(t)
		r.bootstrap()
		r.server.Ban()
		r.server.RenewToken()
		r.clock.Advance(2 * time.Hour)
		_, _, err := r.tryBootstrap()
		if identity.CodeOf(err) != identity.Denied {
			t.Fatalf("got %v", err)
		}
		r.counts(1, 0)
	})
}

// The server comes up late: the agent waits for it. What it refuses is final.
func TestBootstrap(t *testing.T) {
	t.Run("server-late", func(t *testing.T) {
		r := newRig(t)
		r.server.Down()
		id, client := r.load()
		done := make(chan error, 1)
		go func() { done <- id.Bootstrap(context.Background(), client) }()
		r.eventually(func() error {
			if _, ok := r.clock.Next(); !ok {
				return errors.New("it does not wait")
			}
			return nil
		})
		r.server.Up()
		r.eventually(func() error {
			r.clock.Advance(time.Second)
			if id.ID().IsZero() {
				return errors.New("not attested")
			}
			return nil
		})
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
	t.Run("NA-3/refused", func(t *testing.T) { // a token is good for once
		r := newRig(t)
		r.bootstrap()
		r.cfg.Dir = filepath.Join(t.TempDir(), "other")
		_, _, err := r.tryBootstrap()
		if identity.CodeOf(err) != identity.Unauthenticated {
			t.Fatalf("got %v", err)
		}
	})
	t.Run("no-token", func(t *testing.T) {
		r := newRig(t)
		r.cfg.Evidence = jointoken.Evidence{}
		_, _, err := r.tryBootstrap()
		if err == nil || !strings.Contains(err.Error(), "no join token") {
			t.Fatalf("got %v", err)
		}
	})
	t.Run("token-file", func(t *testing.T) {
		r := newRig(t)
		path := filepath.Join(t.TempDir(), "token")
		r.cfg.Evidence = jointoken.Evidence{File: path}
		if _, _, err := r.tryBootstrap(); err == nil || !strings.Contains(err.Error(), "read the join token") {
			t.Fatalf("got %v", err)
		}
		overwrite(t, filepath.Dir(path), "token", []byte(servertest.Token+"\n"))
		if _, _, err := r.tryBootstrap(); err != nil {
			t.Fatal(err)
		}
	})
}

// answers gives what it holds.
type answers struct{ resp wire.AttestResponse }

func (a answers) Attest(context.Context, wire.AttestRequest) (wire.AttestResponse, error) {
	return a.resp, nil
}

func (a answers) Renew(context.Context, wire.RenewRequest) (wire.AttestResponse, error) {
	return a.resp, nil
}

// What the server answers is looked at before it is believed.
func TestAnswersAreChecked(t *testing.T) {
	r := newRig(t)
	other := newRig(t)
	foreign, _ := other.bootstrap()
	cert, err := foreign.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ certificate, want string }{
		"empty":       {"", "no certificate"},
		"not-pem":     {"hello", "no certificate"},
		"private-key": {"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "PEM block of type"},
		"another-key": {pemOf(cert.Certificate[0]), "private key"},
	} {
		id, _ := r.load()
		err := id.Bootstrap(t.Context(), answers{wire.AttestResponse{Certificate: c.certificate}})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}
