// Package session ties one RPC on the agent's socket to the process that made
// it: which process it is, what it attests to, and what it may have now. The
// Workload API and Envoy SDS both start here.
package session

import (
	"context"
	"errors"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/authsec-ai/icp/agent/cache"
	"github.com/authsec-ai/icp/agent/peer"
	"github.com/authsec-ai/icp/agent/workload"
	"github.com/authsec-ai/icp/identity"
)

// Attestor turns a calling process into selectors. It denies a caller that is
// not the same process before and after.
type Attestor interface {
	Attest(ctx context.Context, caller *peer.Caller) (workload.Attestation, error)
}

// Cache holds what attested processes may have.
type Cache interface {
	// Ready reports whether the first sync with the server is done. Before it
	// nobody can tell who is entitled to what.
	Ready() bool
	// Subscribe watches what a process with these selectors may have. Evidence
	// goes with requests to the server.
	Subscribe(selectors identity.Selectors, evidence string) Subscription
	// Bundles gives what Subscription.Bundles gives, once.
	Bundles(selectors identity.Selectors) (Bundles, error)
}

// Bundles are what verifies the SVIDs of each trust domain, own and federated.
type Bundles = map[spiffeid.TrustDomain]*spiffebundle.Bundle

// Subscription is one watch on a Cache.
type Subscription interface {
	// Changed gives a channel that is closed, or receives, at the next change.
	// A caller takes it before Update so that no change is missed.
	Changed() <-chan struct{}
	// Update gives the complete state. Nothing to have is an *identity.Error
	// with Code Denied; it waits for SVIDs that are being issued.
	Update(ctx context.Context) (*cache.Update, error)
	// Bundles gives the bundles that an entitled process may have, its own
	// trust domain's among them. It issues nothing.
	Bundles() (Bundles, error)
	// Close ends the watch.
	Close()
}

// Opener opens sessions.
type Opener struct {
	attestor Attestor
	cache    Cache
}

// NewOpener gives an Opener that attests by attestor and reads from cache.
func NewOpener(attestor Attestor, cache Cache) (*Opener, error) {
	if attestor == nil || cache == nil {
		return nil, errors.New("session: an attestor and a cache are required")
	}
	return &Opener{attestor: attestor, cache: cache}, nil
}

// Session is an attested caller.
type Session struct {
	workload.Attestation
	caller *peer.Caller
}

// Attest attests the process that made the RPC of ctx.
func (o *Opener) Attest(ctx context.Context) (*Session, error) {
	if !o.cache.Ready() {
		return nil, identity.Errorf(identity.Unavailable,
			"the agent has not finished its first sync with the server; try again shortly")
	}
	caller, ok := peer.FromContext(ctx)
	if !ok {
		return nil, identity.Errorf(identity.Denied,
			"the kernel does not name the calling process; connect to the agent's unix socket directly")
	}
	attestation, err := o.attestor.Attest(ctx, caller)
	if err != nil {
		return nil, err
	}
	return &Session{Attestation: attestation, caller: caller}, nil
}

// Check denies unless the caller is still the process that was attested. Call
// it right before each answer that carries something of value.
func (s *Session) Check() error { return s.caller.Same() }

// Watch is a Session that follows what its caller may have.
type Watch struct {
	*Session
	sub Subscription
}

// Watch attests the process that made the RPC of ctx and subscribes it. The
// caller closes the Watch.
func (o *Opener) Watch(ctx context.Context) (*Watch, error) {
	s, err := o.Attest(ctx)
	if err != nil {
		return nil, err
	}
	return &Watch{Session: s, sub: o.cache.Subscribe(s.Selectors, s.Evidence)}, nil
}

// Changed gives a channel that is closed, or receives, at the next change. Take
// it before Update.
func (w *Watch) Changed() <-chan struct{} { return w.sub.Changed() }

// Update gives all that the caller may have now. It denies when that is no
// identity at all, and when the caller is no longer the attested process.
func (w *Watch) Update(ctx context.Context) (*cache.Update, error) {
	update, err := w.sub.Update(ctx)
	if err != nil {
		return nil, err
	}
	if len(update.Identities) == 0 {
		return nil, NoIdentity()
	}
	if err := w.Check(); err != nil {
		return nil, err
	}
	return update, nil
}

// Bundles gives the bundles that the caller may have now; it denies as Update
// does.
func (w *Watch) Bundles() (Bundles, error) { return w.checked(w.sub.Bundles()) }

// Bundles gives the bundles that the caller of ctx may have.
func (o *Opener) Bundles(ctx context.Context) (Bundles, error) {
	s, err := o.Attest(ctx)
	if err != nil {
		return nil, err
	}
	return s.checked(o.cache.Bundles(s.Selectors))
}

func (s *Session) checked(bundles Bundles, err error) (Bundles, error) {
	if err != nil {
		return nil, err
	}
	if err := s.Check(); err != nil {
		return nil, err
	}
	return bundles, nil
}

// Close ends the subscription.
func (w *Watch) Close() { w.sub.Close() }

// NoIdentity gives the denial of a process that no entry matches.
func NoIdentity() error {
	return identity.Errorf(identity.Denied,
		"no identity issued: no registration entry on this node matches the calling process; create one with selectors that it has")
}
