// Package node is the agent's own identity: attested once, kept on disk
// encrypted, renewed for as long as the agent lives.
//
// The server remembers the agent's key. Renewal proves it, and works for a time
// after the SVID has expired, so an agent comes back from an outage by itself.
// Only a node that the server no longer knows has to be attested anew.
package node

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	mathrand "math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/clock"
	"github.com/authsec-ai/icp/internal/csr"
	"github.com/authsec-ai/icp/internal/wire"
)

// Evidence is one method of attestation: it gives the request, but for the
// signing request in it.
type Evidence interface {
	Request(ctx context.Context) (wire.AttestRequest, error)
}

// Server gives agents their SVIDs.
type Server interface {
	Attest(ctx context.Context, req wire.AttestRequest) (wire.AttestResponse, error)
	Renew(ctx context.Context, req wire.RenewRequest) (wire.AttestResponse, error)
}

// Config says where an identity lives and how it is had.
type Config struct {
	Dir      string   // data folder, made if missing
	KeyFile  string   // 32 bytes that seal it; "" means a file in Dir, made if missing
	Evidence Evidence // for the first attestation
	Clock    clock.Clock
	Log      *slog.Logger

	RenewAt float64        // fraction of the lifetime; 0 means 0.66
	Jitter  func() float64 // numbers in [0, 1); nil means random ones
	Changed func()         // called after each new SVID; may be nil
}

// Identity is the agent's key and current SVID.
type Identity struct {
	cfg      Config
	vault    *vault
	key      *ecdsa.PrivateKey
	rejected chan struct{} // the server did not take the SVID

	mu      sync.Mutex
	current *svid // nil before the first attestation
}

// svid is one agent SVID. It never changes.
type svid struct {
	id      spiffeid.ID
	tls     *tls.Certificate
	since   time.Time // when it was taken into use
	renewAt time.Time
	alertAt time.Time
}

const defaultRenewAt = 0.66

// Load gives the identity that was saved, or one that has yet to be attested.
// A saved one that does not open with the key is reported and left behind.
func Load(cfg Config) (*Identity, error) {
	if cfg.Dir == "" || cfg.Evidence == nil || cfg.Clock == nil || cfg.Log == nil {
		return nil, errors.New("node: Dir, Evidence, Clock and Log are required")
	}
	if cfg.RenewAt == 0 {
		cfg.RenewAt = defaultRenewAt
	}
	if cfg.RenewAt <= 0 || cfg.RenewAt >= 1 {
		return nil, fmt.Errorf("node: a renewal at %g of the lifetime is not between 0 and 1", cfg.RenewAt)
	}
	if cfg.Jitter == nil {
		cfg.Jitter = mathrand.Float64
	}
	v, err := openVault(cfg.Dir, cfg.KeyFile)
	if err != nil {
		return nil, err
	}
	i := &Identity{cfg: cfg, vault: v, rejected: make(chan struct{}, 1)}
	return i, i.restore()
}

// restore takes up what was saved.
func (i *Identity) restore() error {
	saved, err := i.vault.load()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return i.makeKey()
	case errors.Is(err, errUnreadable):
		i.cfg.Log.Warn("the agent attests anew", "error", err)
		return i.makeKey()
	case err != nil:
		return fmt.Errorf("read the agent's identity: %w", err)
	}
	key, err := x509.ParsePKCS8PrivateKey(saved.KeyDER)
	ec, ok := key.(*ecdsa.PrivateKey)
	if err != nil || !ok {
		i.cfg.Log.Warn("the agent attests anew", "error", "the saved key is not an ECDSA key")
		return i.makeKey()
	}
	i.key = ec
	if len(saved.Chain) == 0 {
		return nil
	}
	// The SVID arrived some time ago: what is left counts from when it was signed.
	current, err := i.check(saved.Chain)
	if err != nil {
		i.cfg.Log.Warn("the agent attests anew", "error", err)
		return nil
	}
	current.schedule(current.tls.Leaf.NotBefore, i.cfg)
	i.current = current
	return nil
}

// makeKey makes a key and saves it before it is used: an attestation whose
// answer is lost can then be repeated for the key that the server has seen.
func (i *Identity) makeKey() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make the agent's key: %w", err)
	}
	i.key = key
	return i.save(nil)
}

func (i *Identity) save(chain [][]byte) error {
	der, err := x509.MarshalPKCS8PrivateKey(i.key)
	if err != nil {
		return fmt.Errorf("encode the agent's key: %w", err)
	}
	return i.vault.save(state{KeyDER: der, Chain: chain})
}

// Certificate gives the current SVID, also when it has expired: renewing it is
// what it is then good for.
func (i *Identity) Certificate() (*tls.Certificate, error) {
	if s := i.svid(); s != nil {
		return s.tls, nil
	}
	return nil, identity.Errorf(identity.Unavailable, "the agent has not been attested yet")
}

// ID gives the agent's SPIFFE ID, the zero ID before its attestation.
func (i *Identity) ID() spiffeid.ID {
	if s := i.svid(); s != nil {
		return s.id
	}
	return spiffeid.ID{}
}

func (i *Identity) svid() *svid {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.current
}

// Bootstrap returns when there is an SVID that has not expired. It attests the
// node if it has none, and asks again for as long as the server is away. An
// attestation that was refused is an error.
func (i *Identity) Bootstrap(ctx context.Context, server Server) error {
	for attempt := 1; ; attempt++ {
		err := i.ensure(ctx, server)
		switch {
		case err == nil:
			return nil
		case !passing(err):
			return err
		}
		i.cfg.Log.Warn("the agent has no identity yet", "attempt", attempt, "error", err)
		if err := i.waitUntil(ctx, i.cfg.Clock.Now().Add(i.backOff(attempt))); err != nil {
			return err
		}
	}
}

func (i *Identity) ensure(ctx context.Context, server Server) error {
	s := i.svid()
	switch {
	case s == nil:
		return i.attest(ctx, server)
	case i.cfg.Clock.Now().Before(s.tls.Leaf.NotAfter):
		return nil
	}
	return i.renewOrAttest(ctx, server)
}

// passing reports whether an error may go away by itself.
func passing(err error) bool {
	switch identity.CodeOf(err) {
	case identity.Unavailable, identity.RateLimited, identity.Internal:
		return errors.As(err, new(*identity.Error)) // and it is the server's
	}
	return false
}

// Rejected tells that the server did not take the SVID for some request. It is
// then renewed at once, unless it is so new that the request may have been made
// with the one before.
func (i *Identity) Rejected() {
	if s := i.svid(); s == nil || i.cfg.Clock.Now().Sub(s.since) < settled {
		return
	}
	select {
	case i.rejected <- struct{}{}:
	default: // one is waiting already
	}
}

// Run renews the SVID when it is due, until ctx ends.
func (i *Identity) Run(ctx context.Context, server Server) error {
	failures := 0
	for {
		if !i.awaitRenewal(ctx, failures) {
			return nil
		}
		if err := i.renewOrAttest(ctx, server); err != nil {
			failures++
			i.report(err, failures)
			continue
		}
		failures = 0
	}
}

// awaitRenewal returns true when the SVID is to be renewed, false when ctx ends.
func (i *Identity) awaitRenewal(ctx context.Context, failures int) bool {
	due := i.svid().renewAt
	rejected := i.rejected
	if failures > 0 {
		due = i.cfg.Clock.Now().Add(i.backOff(failures))
		rejected = nil // it is being tried again as it is
	}
	for {
		now := i.cfg.Clock.Now()
		if !now.Before(due) {
			return true
		}
		at := now.Add(lookAgain)
		if due.Before(at) {
			at = due
		}
		wake, stop := i.cfg.Clock.At(at)
		select {
		case <-ctx.Done():
			stop()
			return false
		case <-rejected:
			stop()
			return true
		case <-wake:
		}
	}
}

const (
	// settled is the age from which on an SVID is surely the one that was shown.
	settled = 30 * time.Second
	// lookAgain is the longest sleep: the machine may have been suspended, or
	// its clock been set.
	lookAgain    = time.Minute
	firstBackOff = time.Second
	maxBackOff   = 30 * time.Second
)

func (i *Identity) report(err error, failures int) {
	s := i.svid()
	level := slog.LevelWarn
	if !i.cfg.Clock.Now().Before(s.alertAt) {
		level = slog.LevelError
	}
	i.cfg.Log.Log(context.Background(), level, "the agent's SVID was not renewed",
		"agent", s.id.String(), "expires_at", s.tls.Leaf.NotAfter, "attempt", failures, "error", err)
}

// backOff gives the pause after so many failures in a row.
func (i *Identity) backOff(failures int) time.Duration {
	pause := maxBackOff
	if doublings := failures - 1; doublings < 16 {
		pause = min(maxBackOff, firstBackOff<<doublings)
	}
	return pause/2 + time.Duration(i.cfg.Jitter()*float64(pause/2))
}

// waitUntil returns at a time, or before it with the reason.
func (i *Identity) waitUntil(ctx context.Context, at time.Time) error {
	wake, stop := i.cfg.Clock.At(at)
	defer stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-wake:
		return nil
	}
}

// renewOrAttest renews, and attests anew only if the server does not know the
// node (any more). Denied, for one that is banned, is not such a case.
func (i *Identity) renewOrAttest(ctx context.Context, server Server) error {
	err := i.renew(ctx, server)
	if code := identity.CodeOf(err); code != identity.Unauthenticated && code != identity.NotFound {
		return err
	}
	i.cfg.Log.Warn("the server does not take the agent's SVID; attesting anew", "error", err)
	if attestErr := i.attest(ctx, server); attestErr != nil {
		return fmt.Errorf("%w; %w", err, attestErr)
	}
	return nil
}

func (i *Identity) renew(ctx context.Context, server Server) error {
	req, err := csr.New(i.key)
	if err != nil {
		return err
	}
	resp, err := server.Renew(ctx, wire.RenewRequest{CSR: req})
	if err != nil {
		return fmt.Errorf("renew the agent's SVID: %w", err)
	}
	return i.adopt(resp)
}

func (i *Identity) attest(ctx context.Context, server Server) error {
	req, err := i.cfg.Evidence.Request(ctx)
	if err != nil {
		return fmt.Errorf("attest this node: %w", err)
	}
	if req.CSR, err = csr.New(i.key); err != nil {
		return err
	}
	resp, err := server.Attest(ctx, req)
	if err != nil {
		return fmt.Errorf("attest this node: %w", err)
	}
	return i.adopt(resp)
}

// adopt takes a new SVID into use: first on disk, then in memory, then told.
func (i *Identity) adopt(resp wire.AttestResponse) error {
	chain, err := parsePEM(resp.Certificate)
	if err != nil {
		return err
	}
	next, err := i.check(chain)
	if err != nil {
		return err
	}
	if old := i.ID(); !old.IsZero() && old != next.id {
		return fmt.Errorf("server's answer names %s, but this agent is %s", next.id, old)
	}
	if err := i.save(chain); err != nil {
		return err
	}
	next.schedule(i.cfg.Clock.Now(), i.cfg)
	i.mu.Lock()
	i.current = next
	i.mu.Unlock()
	i.cfg.Log.Info("the agent has a new SVID", "agent", next.id.String(), "expires_at", next.tls.Leaf.NotAfter)
	if i.cfg.Changed != nil {
		i.cfg.Changed()
	}
	return nil
}

// check accepts a chain (DER, leaf first) only if it is an agent's SVID for our
// key.
func (i *Identity) check(chain [][]byte) (*svid, error) {
	der, err := x509.MarshalPKCS8PrivateKey(i.key)
	if err != nil {
		return nil, fmt.Errorf("encode the agent's key: %w", err)
	}
	parsed, err := x509svid.ParseRaw(slices.Concat(chain...), der)
	if err != nil {
		return nil, fmt.Errorf("agent SVID: %w", err)
	}
	if !identity.IsAgentPath(parsed.ID.Path()) {
		return nil, fmt.Errorf("agent SVID names %s, which is no agent", parsed.ID)
	}
	return &svid{
		id:  parsed.ID,
		tls: &tls.Certificate{Certificate: chain, PrivateKey: i.key, Leaf: parsed.Certificates[0]},
	}, nil
}

// schedule sets the times of an SVID that is valid from start on by our clock.
// Only the length of its life is the server's word, so a clock that differs
// neither delays renewal nor makes it spin.
func (s *svid) schedule(start time.Time, cfg Config) {
	life := s.tls.Leaf.NotAfter.Sub(s.tls.Leaf.NotBefore)
	at := func(f float64) time.Time { return start.Add(time.Duration(f * float64(life))) }
	const spread = 0.05 // of the fraction
	s.since = start
	s.renewAt = at(cfg.RenewAt * (1 - spread*cfg.Jitter()))
	s.alertAt = at(max(0.9, (1+cfg.RenewAt)/2))
}

func parsePEM(text string) ([][]byte, error) {
	var chain [][]byte
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("server's answer has a PEM block of type %q among the certificates", identity.Clip(block.Type))
		}
		chain = append(chain, block.Bytes)
	}
	if len(chain) == 0 {
		return nil, errors.New("server's answer has no certificate")
	}
	return chain, nil
}
