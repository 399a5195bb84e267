// Package ca is a tenant's certificate authority: it makes and rotates the
// tenant's authorities, signs X.509-SVIDs, JWT-SVIDs and agents' certificates
// with them, and says what others must trust.
//
// Each tenant has five authorities, which share nothing with another tenant's:
//
//	workload anchor → workload issuer → X.509-SVIDs of workloads
//	node anchor     → node issuer     → X.509-SVIDs of agents
//	JWT key                           → JWT-SVIDs of workloads
//
// The bundle holds workload anchors and JWT keys. Node anchors are in no
// bundle: only the server trusts them, so no workload takes an agent for a
// workload or the other way round.
//
// Every private key is stored wrapped by the tenant's custody. Anchor keys are
// unwrapped only to make an issuer; issuer and JWT keys at first use, and then
// stay in memory.
//
// A credential is made in this order: check the request, load the entry,
// authorize, record the intent, sign, check what was signed, close the record,
// release. A failure at any step releases nothing.
package ca

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"go.opentelemetry.io/otel/metric"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/audit"
	"github.com/authsec-ai/icp/server/keys"
	"github.com/authsec-ai/icp/server/store"
)

// Store is what the CA needs of the server's store.
type Store interface {
	CreateTenant(ctx context.Context, t store.Tenant, authorities []store.Authority, ev audit.Event) error
	Tenant(ctx context.Context, id string) (store.Tenant, error)
	EntriesByID(ctx context.Context, tenant string, ids []string) ([]identity.Entry, error)
	Authorities(ctx context.Context, tenant string) ([]store.Authority, error)
	PutAuthority(ctx context.Context, a store.Authority, ev audit.Event) error
	RecordIntents(ctx context.Context, tenant, node string, now time.Time, items []store.Intent) ([]store.Intent, []error, error)
	FinishIntents(ctx context.Context, tenant string, serials []string, issued bool) error
	RecordEvents(ctx context.Context, tenant string, events []audit.Event) error
}

// Config is what a CA is made of. All of it is required.
type Config struct {
	Store   Store
	Custody keys.Custody
	Now     func() time.Time
	Rand    io.Reader // for serial numbers and token ids
	Log     *slog.Logger
	Meter   metric.Meter
}

// CA signs for all tenants. It is safe for concurrent use.
type CA struct {
	store   Store
	custody keys.Custody
	now     func() time.Time
	rand    io.Reader
	log     *slog.Logger
	metrics metrics
	closer  *closer

	mu     sync.Mutex
	realms map[string]*realm // by tenant
}

// New makes a CA. Nothing is loaded until a tenant is asked for. The caller
// closes it.
func New(cfg Config) (*CA, error) {
	if cfg.Store == nil || cfg.Custody == nil || cfg.Now == nil || cfg.Rand == nil || cfg.Log == nil || cfg.Meter == nil {
		return nil, errors.New("a CA needs a store, a custody, a clock, a source of randomness, a log and a meter")
	}
	m, err := newMetrics(cfg.Meter)
	if err != nil {
		return nil, fmt.Errorf("make the CA's metrics: %w", err)
	}
	return &CA{
		store:   cfg.Store,
		custody: cfg.Custody,
		now:     cfg.Now,
		rand:    cfg.Rand,
		log:     cfg.Log,
		metrics: m,
		closer:  startCloser(cfg.Store, cfg.Log),
		realms:  map[string]*realm{},
	}, nil
}

// Close marks what was issued as issued and waits for that. Nobody may call the
// CA after it; the store must still be open.
func (c *CA) Close() { c.closer.close() }

// CreateTenant makes the tenant's key-encryption key and all its authorities,
// then stores tenant and authorities in one step. A tenant's id has the form of
// a trust domain name, and is its trust domain if none is given. After a failure it can be called again.
func (c *CA) CreateTenant(ctx context.Context, t store.Tenant, ev audit.Event) error {
	if _, err := identity.ParseTrustDomain(t.ID); err != nil {
		return identity.Errorf(identity.Invalid, "tenant id %q must be lower-case letters, digits, '-', '_' and '.'", identity.Clip(t.ID))
	}
	if t.TrustDomain == "" {
		t.TrustDomain = t.ID
	}
	domain, err := identity.ParseTrustDomain(t.TrustDomain)
	if err != nil {
		return err
	}
	if err := c.custody.Create(ctx, t.ID); err != nil {
		return unavailable("make the tenant's key-encryption key", err)
	}
	authorities, err := c.firstAuthorities(ctx, t.ID, domain)
	if err != nil {
		return unavailable("make the tenant's authorities", err)
	}
	return c.store.CreateTenant(ctx, t, authorities, ev)
}

// unavailable gives err its meaning for the caller: an error with a code keeps
// it; any other means that a part we depend on failed, and that nothing was
// released.
func unavailable(doing string, err error) error {
	var coded *identity.Error
	if errors.As(err, &coded) {
		return err
	}
	return &identity.Error{
		Code:    identity.Unavailable,
		Message: "cannot " + doing + " at the moment; try again",
		Err:     err,
	}
}
