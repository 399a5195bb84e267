package cache

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/authsec-ai/icp/identity"
)

// Subscription watches what one attested process may have. Close it.
type Subscription struct {
	cache   *Cache
	asker   asker
	changed chan struct{}

	// guarded by Cache.mu
	matched  []*entry // oldest first
	holds    bool     // has asked for SVIDs, so they are renewed
	updating int      // calls of Update under way; they see changes by themselves
	missed   bool     // a change that was left to them
	closed   bool
}

// Subscribe watches what a process with these selectors may have. Evidence goes
// with the requests to the server that are made on its behalf.
func (c *Cache) Subscribe(selectors identity.Selectors, evidence string) *Subscription {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &Subscription{cache: c, asker: asker{selectors, evidence}, changed: make(chan struct{}, 1)}
	s.matched = c.index.match(selectors)
	c.subs[s] = struct{}{}
	return s
}

// Changed gives a channel that receives when Update may give something else
// than before. Many changes may be one signal.
func (s *Subscription) Changed() <-chan struct{} { return s.changed }

// Close ends the watch.
func (s *Subscription) Close() {
	s.cache.mu.Lock()
	defer s.cache.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	delete(s.cache.subs, s)
	s.release(s.matched)
}

// Bundles gives the bundles that the process may have; it issues nothing.
func (s *Subscription) Bundles() (map[spiffeid.TrustDomain]*spiffebundle.Bundle, error) {
	return s.cache.Bundles(s.asker.selectors)
}

// Update gives the complete state. What was never issued is issued now, and
// waited for.
//
// Errors are *identity.Error: Denied if no entry matches (any more),
// Unavailable before the first sync and when the default identity can't be had.
// A later identity that can't be had is left out and follows as a change: it
// must not take the others away, but the default must never change silently.
func (s *Subscription) Update(ctx context.Context) (*Update, error) {
	s.begin()
	for {
		update, waits, err := s.snapshot()
		if err != nil || waits == nil {
			return update, err
		}
		for _, w := range waits {
			select {
			case <-w.done:
			case <-ctx.Done():
				s.giveUp()
				return nil, fmt.Errorf("wait for SVIDs: %w", ctx.Err())
			}
		}
	}
}

func (s *Subscription) begin() {
	s.cache.mu.Lock()
	defer s.cache.mu.Unlock()
	s.updating++
	if !s.holds && !s.closed {
		s.holds = true
		s.hold(s.matched)
	}
}

// snapshot gives the state, or what has to be waited for before there is one.
func (s *Subscription) snapshot() (*Update, []*issuing, error) {
	s.cache.mu.Lock()
	defer s.cache.mu.Unlock()
	update, waits, err := s.assemble()
	switch {
	case err != nil:
		s.end(true)
	case waits == nil:
		s.end(false)
	}
	return update, waits, err
}

func (s *Subscription) assemble() (*Update, []*issuing, error) {
	c := s.cache
	switch {
	case s.closed:
		return nil, nil, identity.Errorf(identity.Internal, "the subscription is closed")
	case !c.synced:
		return nil, nil, notSynced()
	case len(s.matched) == 0:
		return nil, nil, noIdentity()
	}
	have, waits, err := s.collect(c.clock.Now())
	if err != nil || waits != nil {
		return nil, waits, err
	}
	if len(have) == 0 {
		return nil, nil, noIdentity() // the server refused them all
	}
	bundles, err := c.bundlesOf(s.matched)
	if err != nil {
		return nil, nil, err
	}
	return &Update{Identities: have, Bundles: bundles}, nil, nil
}

// collect gives the identities that can be had, or what to wait for. What
// failed a moment ago is not asked for again.
func (s *Subscription) collect(now time.Time) (have []Identity, waits []*issuing, err error) {
	have = make([]Identity, 0, len(s.matched))
	var unavailable error
	for _, e := range s.matched {
		switch {
		case e.usable(now) != nil:
			have = append(have, e.svid.Identity)
		case e.issuing != nil || e.failure == nil || !now.Before(e.retryAt):
			waits = append(waits, s.cache.request(e, s.asker))
		case e.fallback(now) != nil:
			have = append(have, e.previous.Identity)
		case e.refused(): // not this process's on this node
		case len(have) == 0 && unavailable == nil:
			unavailable = &identity.Error{Code: identity.Unavailable, Err: e.failure,
				Message: "the server can't issue this identity now; the agent keeps trying"}
		}
	}
	if waits != nil {
		return nil, waits, nil
	}
	return have, nil, unavailable
}

// end notes that one Update is over. After an error, changes that were left to
// it are told after all.
func (s *Subscription) end(failed bool) {
	s.updating--
	if s.updating > 0 {
		return
	}
	if failed && s.missed {
		signal(s.changed)
	}
	s.missed = false
}

func (s *Subscription) giveUp() {
	s.cache.mu.Lock()
	defer s.cache.mu.Unlock()
	s.end(true)
}

// wake tells of a change.
func (s *Subscription) wake() {
	if s.updating > 0 {
		s.missed = true
		return
	}
	signal(s.changed)
}

// rematch finds out what the process may have now and reports whether that is
// something else than before.
func (s *Subscription) rematch() bool {
	matched := s.cache.index.match(s.asker.selectors)
	if slices.Equal(matched, s.matched) {
		return false
	}
	old := s.matched
	s.matched = matched
	if s.holds {
		s.release(old)
		s.hold(matched)
	}
	return true
}

// hold has the SVIDs of entries renewed for as long as s does not release them.
func (s *Subscription) hold(entries []*entry) {
	for _, e := range entries {
		if e.holders == nil {
			e.holders = map[*Subscription]struct{}{}
		}
		e.holders[s] = struct{}{}
	}
	signal(s.cache.kick)
}

func (s *Subscription) release(entries []*entry) {
	for _, e := range entries {
		delete(e.holders, s)
		e.usedAt = s.cache.clock.Now()
	}
}
