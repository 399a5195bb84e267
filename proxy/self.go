package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// self is the proxy's own identity and the bundles it trusts, kept current
// from a Workload API socket. When the socket is lost, the last good SVID
// serves until it expires; after that nothing is served.
type self struct {
	want    spiffeid.ID // zero for the default identity
	log     *slog.Logger
	now     func() time.Time
	changed func() // called after each update: the bundles may be others

	current atomic.Pointer[snapshot]
	first   chan struct{} // closed when there is an SVID for the first time
	once    sync.Once
}

// snapshot is one update of the Workload API; it is replaced, never changed.
type snapshot struct {
	id       spiffeid.ID
	cert     tls.Certificate
	notAfter time.Time
	bundles  *x509bundle.Set
}

var errNoSVID = errors.New("the proxy has no valid SVID of its own")

// run watches the Workload API until ctx ends.
func (s *self) run(ctx context.Context, addr string) error {
	const pause = 250 * time.Millisecond // a socket of this host
	for {
		err := workloadapi.WatchX509Context(ctx, s, workloadapi.WithAddr(addr), workloadapi.WithBackoffStrategy(steady{pause}))
		if ctx.Err() != nil {
			return nil
		}
		s.OnX509ContextWatchError(err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// steady waits the same time before every attempt.
type steady struct{ pause time.Duration }

// NewBackoff gives the strategy's state, which is none.
func (s steady) NewBackoff() workloadapi.Backoff { return s }

// Next gives the wait before the next attempt.
func (s steady) Next() time.Duration { return s.pause }

// Reset does nothing.
func (s steady) Reset() {}

// OnX509ContextUpdate takes an update. One that lacks the wanted identity
// brings its bundles all the same: what is no longer trusted must not wait.
func (s *self) OnX509ContextUpdate(update *workloadapi.X509Context) {
	old := s.current.Load()
	next := &snapshot{bundles: update.Bundles}
	own := s.choose(update.SVIDs)
	switch {
	case own != nil:
		next.id, next.notAfter = own.ID, own.Certificates[0].NotAfter
		next.cert = tlsCertificate(own)
	case old != nil:
		next.id, next.notAfter, next.cert = old.id, old.notAfter, old.cert
	}
	if own == nil {
		s.log.Warn("the Workload API does not give the wanted identity", "spiffe_id", s.want.String())
	}
	s.current.Store(next)
	s.changed()
	if own != nil {
		s.once.Do(func() { close(s.first) })
	}
}

func (s *self) choose(svids []*x509svid.SVID) *x509svid.SVID {
	for _, candidate := range svids {
		if s.want.IsZero() || candidate.ID == s.want {
			return candidate
		}
	}
	return nil
}

func tlsCertificate(own *x509svid.SVID) tls.Certificate {
	cert := tls.Certificate{PrivateKey: own.PrivateKey, Leaf: own.Certificates[0]}
	for _, c := range own.Certificates {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	return cert
}

// OnX509ContextWatchError notes that the Workload API gave nothing.
func (s *self) OnX509ContextWatchError(err error) {
	s.log.Warn("the Workload API gives no identity; the last one stays in use until it expires", "error", err)
}

// valid gives the snapshot if its SVID may be used now.
func (s *self) valid() (*snapshot, error) {
	current := s.current.Load()
	if current == nil || current.cert.Leaf == nil || !s.now().Before(current.notAfter) {
		return nil, errNoSVID
	}
	return current, nil
}

// Certificate gives the SVID for a TLS handshake.
func (s *self) Certificate() (*tls.Certificate, error) {
	current, err := s.valid()
	if err != nil {
		return nil, err
	}
	return &current.cert, nil
}

// GetX509BundleForTrustDomain gives a bundle; having none is an error.
func (s *self) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	current := s.current.Load()
	if current == nil {
		return nil, fmt.Errorf("no trust bundle for %s: the Workload API has given none yet", td)
	}
	return current.bundles.GetX509BundleForTrustDomain(td)
}

// ready says why the proxy can't prove who it is, or whom it trusts.
func (s *self) ready(context.Context) error {
	current, err := s.valid()
	if err != nil {
		return err
	}
	bundle, err := s.GetX509BundleForTrustDomain(current.id.TrustDomain())
	if err != nil {
		return err
	}
	if bundle.Empty() {
		return fmt.Errorf("the trust bundle of %s is empty", current.id.TrustDomain())
	}
	return nil
}
