// Package cache holds what the agent may serve: entries, SVIDs and bundles, and
// wakes whoever watches them.
//
// Entries and bundles come from Apply, in complete steps. SVIDs are issued when
// the first process asks, shared by all processes of the entry, and replaced
// before they expire for as long as somebody watches. Private keys are made
// here and leave only to the processes that attested; nothing is written
// anywhere.
//
// One mutex guards all state. What is handed out is never changed again, so a
// chain and its key always belong together.
package cache

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"go.opentelemetry.io/otel/metric"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/clock"
	"github.com/authsec-ai/icp/internal/wire"
)

// Identity is one X.509-SVID that a workload is entitled to.
type Identity struct {
	EntryID  string
	SVID     *x509svid.SVID // chain, private key, hint
	ChainDER []byte         // concatenated DER, leaf first
	KeyDER   []byte         // PKCS #8 DER
}

// Update is the complete state for one set of selectors.
type Update struct {
	// Identities are ordered oldest entry first; the first is the default.
	Identities []Identity
	// Bundles holds the own trust domain of each identity, and federated ones.
	Bundles map[spiffeid.TrustDomain]*spiffebundle.Bundle
}

// JWTSVID is one JWT-SVID that a workload is entitled to.
type JWTSVID struct {
	ID        spiffeid.ID
	Token     string // compact JWS
	Hint      string
	ExpiresAt time.Time
}

// Signer has the server sign.
type Signer interface {
	// Sign answers item by item.
	Sign(ctx context.Context, req wire.SignRequest) (wire.SignResponse, error)
	// SignJWT answers item by item.
	SignJWT(ctx context.Context, req wire.SignJWTRequest) (wire.SignJWTResponse, error)
}

// Config says what a Cache works with.
type Config struct {
	Signer Signer
	Clock  clock.Clock
	Log    *slog.Logger
	Meter  metric.Meter

	// Jitter gives numbers in [0, 1) that spread renewals; nil means random ones.
	Jitter func() float64
}

// Cache is what the agent may serve. Make it with New and keep Run going.
type Cache struct {
	signer  Signer
	clock   clock.Clock
	log     *slog.Logger
	jitter  func() float64
	metrics metrics

	queued chan struct{} // something is in queue
	kick   chan struct{} // a renewal may be due earlier than was thought

	mu      sync.Mutex
	synced  bool
	entries map[string]*entry
	index   index
	asked   map[string]int // entries that use a selector, by "type:key"
	bundles map[spiffeid.TrustDomain]*spiffebundle.Bundle
	renewAt float64 // default fraction of the lifetime
	subs    map[*Subscription]struct{}
	queue   []*issuing // first issues that wait for their batch
}

// defaultRenewAt is the fraction of its lifetime after which an SVID is renewed
// if neither entry nor server say otherwise.
const defaultRenewAt = 0.66

// New gives an empty Cache, which is not ready.
func New(cfg Config) (*Cache, error) {
	if cfg.Signer == nil || cfg.Clock == nil || cfg.Log == nil || cfg.Meter == nil {
		return nil, errors.New("cache: Signer, Clock, Log and Meter are required")
	}
	m, err := newMetrics(cfg.Meter)
	if err != nil {
		return nil, err
	}
	if cfg.Jitter == nil {
		cfg.Jitter = rand.Float64
	}
	return &Cache{
		signer: cfg.Signer, clock: cfg.Clock, log: cfg.Log, jitter: cfg.Jitter, metrics: m,
		queued: make(chan struct{}, 1), kick: make(chan struct{}, 1),
		entries: map[string]*entry{}, index: index{}, asked: map[string]int{},
		bundles: map[spiffeid.TrustDomain]*spiffebundle.Bundle{},
		renewAt: defaultRenewAt, subs: map[*Subscription]struct{}{},
	}, nil
}

// Run issues and renews until ctx ends. Update and FetchJWT need it.
func (c *Cache) Run(ctx context.Context) error {
	var group sync.WaitGroup
	defer group.Wait()
	group.Go(func() { c.renewing(ctx) })
	c.issueQueued(ctx, &group)
	return nil
}

// Ready reports whether the server's state has arrived once. Before it nobody
// can tell who is entitled to what.
func (c *Cache) Ready() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.synced
}

// Asks reports whether some entry uses a selector of this type and key, such as
// "unix:sha256".
func (c *Cache) Asks(typeAndKey string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asked[typeAndKey] > 0
}

// Bundles gives the bundles that a process with these selectors may have.
func (c *Cache) Bundles(selectors identity.Selectors) (map[spiffeid.TrustDomain]*spiffebundle.Bundle, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.synced {
		return nil, notSynced()
	}
	matched := c.index.match(selectors)
	if len(matched) == 0 {
		return nil, noIdentity()
	}
	return c.bundlesOf(matched)
}

// bundlesOf gives the bundle of each entry's own trust domain.
func (c *Cache) bundlesOf(matched []*entry) (map[spiffeid.TrustDomain]*spiffebundle.Bundle, error) {
	own := make(map[spiffeid.TrustDomain]*spiffebundle.Bundle, 1)
	for _, e := range matched {
		td := e.SPIFFEID.TrustDomain()
		b, ok := c.bundles[td]
		if !ok {
			return nil, identity.Errorf(identity.Unavailable, "the agent has no bundle of trust domain %s yet; try again shortly", td)
		}
		own[td] = b
	}
	return own, nil
}

func notSynced() error {
	return identity.Errorf(identity.Unavailable, "the agent has not finished its first sync with the server; try again shortly")
}

func noIdentity() error {
	return identity.Errorf(identity.Denied,
		"no identity issued: no registration entry on this node matches the calling process; create one with selectors that it has")
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // one is waiting already
	}
}
