// Package syncer makes the agent's cache equal the server: it follows the
// server's stream of changes, and comes back with its cursor when that breaks.
// While the server is away the cache serves what it has.
package syncer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/authsec-ai/icp/agent/cache"
	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/clock"
	"github.com/authsec-ai/icp/internal/wire"
)

// Server gives the stream of changes after a cursor.
type Server interface {
	Sync(ctx context.Context, epoch string, revision int64, each func(wire.SyncFrame) error) error
}

// Cache takes complete steps.
type Cache interface {
	Apply(cache.Change)
}

// Config says what a Syncer works with.
type Config struct {
	Server Server
	Cache  Cache
	Clock  clock.Clock
	Log    *slog.Logger
	Jitter func() float64 // numbers in [0, 1); nil means random ones
}

// Syncer follows one server. Make it with New and keep Run going.
type Syncer struct {
	cfg  Config
	wake chan struct{}

	// at is how far the cache is; only Run touches it.
	at     cursor
	batch  batch
	skewed bool

	lastWord atomic.Int64 // unix nanoseconds, by the agent's clock
}

type cursor struct {
	epoch    string
	revision int64
}

// New refuses an incomplete Config.
func New(cfg Config) (*Syncer, error) {
	if cfg.Server == nil || cfg.Cache == nil || cfg.Clock == nil || cfg.Log == nil {
		return nil, errors.New("syncer: Server, Cache, Clock and Log are required")
	}
	if cfg.Jitter == nil {
		cfg.Jitter = rand.Float64
	}
	return &Syncer{cfg: cfg, wake: make(chan struct{}, 1)}, nil
}

// Wake ends a pause between two attempts: something has changed for the better.
func (s *Syncer) Wake() {
	select {
	case s.wake <- struct{}{}:
	default: // one is waiting already
	}
}

// LastWord gives when the server was last heard of; the zero time if never.
func (s *Syncer) LastWord() time.Time {
	if n := s.lastWord.Load(); n != 0 {
		return time.Unix(0, n)
	}
	return time.Time{}
}

// Pauses before the stream is opened again. The first is short because a server
// that ends a stream does so to say something at the next; the last is how long
// deletions may wait when the server can be reached again.
const (
	firstBackOff = 100 * time.Millisecond
	maxBackOff   = 5 * time.Second
)

// Run follows the server until ctx ends.
func (s *Syncer) Run(ctx context.Context) error {
	failures := 0
	for {
		before := s.at
		err := s.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if s.at != before {
			failures = 0
		}
		failures++
		level := slog.LevelInfo // a server that restarts, or an SVID that was renewed
		if failures > 1 {
			level = slog.LevelWarn
		}
		s.cfg.Log.Log(ctx, level, "not in sync with the server; serving what is here", "attempt", failures, "error", err)
		if identity.CodeOf(err) == identity.Denied {
			s.forget()
		}
		s.pause(ctx, failures)
	}
}

// forget empties the cache: the server said that this agent may have nothing.
func (s *Syncer) forget() {
	s.at = cursor{}
	s.cfg.Cache.Apply(cache.Change{Reset: true})
}

func (s *Syncer) pause(ctx context.Context, failures int) {
	d := maxBackOff
	if doublings := failures - 1; doublings < 16 {
		d = min(maxBackOff, firstBackOff<<doublings)
	}
	wake, stop := s.cfg.Clock.At(s.cfg.Clock.Now().Add(d/2 + time.Duration(s.cfg.Jitter()*float64(d/2))))
	defer stop()
	select {
	case <-ctx.Done():
	case <-wake:
	case <-s.wake:
	}
}

func (s *Syncer) follow(ctx context.Context) error {
	s.batch = batch{}
	return s.cfg.Server.Sync(ctx, s.at.epoch, s.at.revision, s.take)
}

// take adds a frame to the batch, and applies the batch when it is complete.
func (s *Syncer) take(f wire.SyncFrame) error {
	s.lastWord.Store(s.cfg.Clock.Now().UnixNano())
	s.noteSkew(f.Time)
	if err := s.batch.add(f); err != nil {
		return err
	}
	if !f.Done {
		return nil
	}
	if f.Epoch != s.at.epoch && !s.batch.reset {
		s.at = cursor{} // our state is of another history: ask for everything
		return identity.Errorf(identity.Unavailable, "server has another history than this agent; starting afresh")
	}
	s.cfg.Cache.Apply(s.batch.change())
	s.at, s.batch = cursor{f.Epoch, f.Revision}, batch{}
	return nil
}

// maxSkew is the difference between two clocks that is not worth a word.
const maxSkew = time.Minute

func (s *Syncer) noteSkew(server time.Time) {
	if server.IsZero() {
		return
	}
	skew := s.cfg.Clock.Now().Sub(server)
	if off := skew.Abs() > maxSkew; off != s.skewed {
		s.skewed = off
		if off {
			s.cfg.Log.Error("this machine's clock differs from the server's; set it, or SVIDs seem expired or not yet valid",
				"ahead_by", skew.Round(time.Second).String())
		}
	}
}

// batch is what came since the last complete state, in the order it came.
type batch struct {
	reset   bool
	upserts map[string]identity.Entry
	deletes map[string]struct{}
	bundles map[spiffeid.TrustDomain]*spiffebundle.Bundle
	renewAt float64
}

func (b *batch) add(f wire.SyncFrame) error {
	if f.Reset || b.upserts == nil {
		*b = batch{reset: f.Reset, upserts: map[string]identity.Entry{}, deletes: map[string]struct{}{}}
	}
	for _, id := range f.Deletes {
		delete(b.upserts, id)
		b.deletes[id] = struct{}{}
	}
	for _, e := range f.Upserts {
		delete(b.deletes, e.ID)
		b.upserts[e.ID] = e
	}
	if f.Settings != nil {
		b.renewAt = f.Settings.RenewAt
	}
	if f.Bundles == nil {
		return nil
	}
	b.bundles = make(map[spiffeid.TrustDomain]*spiffebundle.Bundle, len(f.Bundles))
	for name, raw := range f.Bundles {
		if err := b.addBundle(name, raw); err != nil {
			return fmt.Errorf("bundle of %q: %w", identity.Clip(name), err)
		}
	}
	return nil
}

func (b *batch) addBundle(name string, raw []byte) error {
	td, err := identity.ParseTrustDomain(name)
	if err != nil {
		return err
	}
	bundle, err := spiffebundle.Parse(td, raw)
	if err != nil {
		return err
	}
	b.bundles[td] = bundle
	return nil
}

func (b *batch) change() cache.Change {
	ch := cache.Change{Reset: b.reset, Bundles: b.bundles, RenewAt: b.renewAt}
	for _, e := range b.upserts {
		ch.Upserts = append(ch.Upserts, e)
	}
	for id := range b.deletes {
		ch.Deletes = append(ch.Deletes, id)
	}
	return ch
}
