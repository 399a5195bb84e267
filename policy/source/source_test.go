package source_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/policy"
	"github.com/authsec-ai/icp/policy/source"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// gateway is the sink of a proxy: an engine and what is revoked.
type gateway struct {
	*policy.Engine
	mu      sync.Mutex
	revoked []identity.Revocation
}

func newGateway() *gateway { return &gateway{Engine: policy.NewEngine()} }

func (g *gateway) ApplyPolicies(s policy.Set) error { return g.Load(s) }

func (g *gateway) ExpirePolicies() { g.Expire() }

func (g *gateway) ApplyRevocations(list []identity.Revocation) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.revoked = list
	return nil
}

func (g *gateway) isRevoked(serial string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, r := range g.revoked {
		if r.Serial == serial {
			return true
		}
	}
	return false
}

// decides gives the name of the policy that allows bot's request, or else the
// reason why none does.
func (g *gateway) decides() string {
	d := g.Decide(policy.Request{Subject: spiffeid.RequireFromString("spiffe://td/bot"), Service: "api", Method: "GET", Path: "/x"})
	if d.Allowed {
		return d.Policy
	}
	return d.Reason
}

// botPolicy allows bot's request.
func botPolicy(name string) policy.Policy {
	return policy.Policy{Name: name, Effect: policy.Allow, Subjects: []string{"spiffe://td/bot"}, Service: "api",
		Methods: []string{"GET"}, Paths: []string{"/**"}}
}

// eventually waits until what gives want.
func eventually[T comparable](t *testing.T, what func() T, want T) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for what() != want {
		if time.Now().After(deadline) {
			t.Fatalf("still %v, want %v", what(), want)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// run starts a source and waits for its end when the test ends, or before when
// the answer is called.
func run(t *testing.T, s interface {
	Run(context.Context, source.Sink) error
}, sink source.Sink) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, sink) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }
