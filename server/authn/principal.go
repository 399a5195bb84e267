// Package authn answers who is calling: an administrator by API token, an agent
// by the SVID of its node, or a workload by its own.
//
// It fails closed: whatever can't be established, also because the store or the
// CA doesn't answer, is an error. Nothing that a client says about itself
// counts; forwarded-certificate headers are not read at all.
package authn

import (
	"context"
	"crypto/x509"
	"errors"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/server/store"
)

// Kind says what a caller proved.
type Kind string

// The kinds of Principal.
const (
	Token    Kind = "token"    // an API token
	Agent    Kind = "agent"    // the current SVID of a node
	Workload Kind = "workload" // an SVID issued for an entry
)

// Principal is an authenticated caller. Its zero value is nobody.
type Principal struct {
	Kind   Kind
	Tenant string // "" for a PlatformAdmin
	Actor  string // as audit events name it

	Role store.Role // tokens

	SPIFFEID  spiffeid.ID       // agents and workloads
	Leaf      *x509.Certificate // agents and workloads: what they presented
	ExpiresAt time.Time         // agents and workloads: of what they presented
	Serial    string            // agents and workloads: of what they presented
	Node      identity.Node     // agents
	Entry     identity.Entry    // workloads
}

// DefaultReattestGrace is how long after its expiry an agent SVID still proves
// the right to a new one.
const DefaultReattestGrace = 7 * 24 * time.Hour

// Store is what callers are looked up in.
type Store interface {
	APITokenByHash(ctx context.Context, hash []byte) (store.APIToken, error)
	TenantByTrustDomain(ctx context.Context, td string) (store.Tenant, error)
	Node(ctx context.Context, tenant, id string) (identity.Node, error)
	Entry(ctx context.Context, tenant, id string) (identity.Entry, error)
	issuances
}

type issuances interface {
	Issued(ctx context.Context, tenant, serial string) (store.Issuance, error)
	Revoked(ctx context.Context, tenant, serial string) (bool, error)
}

// Bundles gives the authorities that SVIDs are verified with.
type Bundles interface {
	Bundle(ctx context.Context, tenant string) (*spiffebundle.Bundle, error)
	NodeAnchors(ctx context.Context, tenant string) (*x509bundle.Bundle, error)
}

// Config holds what an Authenticator works with.
type Config struct {
	Store         Store
	Bundles       Bundles
	Now           func() time.Time
	ReattestGrace time.Duration // 0 means DefaultReattestGrace
}

// Authenticator establishes callers.
type Authenticator struct {
	store    Store
	bundles  Bundles
	now      func() time.Time
	grace    time.Duration
	verified verified
}

// New refuses an incomplete Config.
func New(cfg Config) (*Authenticator, error) {
	if cfg.Store == nil || cfg.Bundles == nil || cfg.Now == nil {
		return nil, errors.New("authn: Store, Bundles and Now are all required")
	}
	if cfg.ReattestGrace < 0 {
		return nil, errors.New("authn: ReattestGrace must not be negative")
	}
	if cfg.ReattestGrace == 0 {
		cfg.ReattestGrace = DefaultReattestGrace
	}
	return &Authenticator{store: cfg.Store, bundles: cfg.Bundles, now: cfg.Now, grace: cfg.ReattestGrace}, nil
}
