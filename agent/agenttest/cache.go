package agenttest

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/authsec-ai/icp/agent/cache"
	"github.com/authsec-ai/icp/agent/session"
	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/identity"
)

// Entry entitles processes that have Selector to ID.
type Entry struct {
	ID       spiffeid.ID
	Selector string // "unix:uid:1000"
	Hint     string
}

// Cache holds entries and SVIDs in memory, in the place of one that a server
// fills.
type Cache struct {
	tb        testing.TB
	authority *Authority

	mu      sync.Mutex
	unready bool
	failure error // what Update gives, if not nil
	entries []held
	bundles map[spiffeid.TrustDomain]*spiffebundle.Bundle
	changed chan struct{} // closed and replaced at each change
	reads   int           // of the state
}

type held struct {
	Entry
	selectors identity.Selectors
	identity  cache.Identity
}

func newCache(tb testing.TB, authority *Authority) *Cache {
	return &Cache{
		tb:        tb,
		authority: authority,
		bundles:   map[spiffeid.TrustDomain]*spiffebundle.Bundle{authority.TrustDomain: authority.Bundle()},
		changed:   make(chan struct{}),
	}
}

// change runs f under the lock and wakes every watcher.
func (c *Cache) change(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
	close(c.changed)
	c.changed = make(chan struct{})
}

// Put adds an entry, or issues anew for the one with the same ID.
func (c *Cache) Put(e Entry) {
	c.tb.Helper()
	selector, err := identity.ParseSelector(e.Selector)
	if err != nil {
		c.tb.Fatalf("entry %s: %v", e.ID, err)
	}
	svid := c.authority.Issue(e.ID)
	svid.Hint = e.Hint
	h := held{Entry: e, selectors: identity.NewSelectors(selector), identity: identityOf(c.tb, svid)}
	c.change(func() {
		i := slices.IndexFunc(c.entries, func(o held) bool { return o.ID == e.ID })
		if i < 0 {
			c.entries = append(c.entries, h)
			return
		}
		c.entries[i] = h
	})
}

// Delete removes the entry of an ID.
func (c *Cache) Delete(id spiffeid.ID) {
	c.change(func() {
		c.entries = slices.DeleteFunc(c.entries, func(h held) bool { return h.ID == id })
	})
}

// SetBundle adds or replaces the bundle of a trust domain.
func (c *Cache) SetBundle(bundle *spiffebundle.Bundle) {
	c.change(func() { c.bundles[bundle.TrustDomain()] = bundle })
}

// DeleteBundle removes the bundle of a trust domain.
func (c *Cache) DeleteBundle(td spiffeid.TrustDomain) {
	c.change(func() { delete(c.bundles, td) })
}

// Wake tells the watchers of a change that is none, and returns when one of
// them has looked.
func (c *Cache) Wake() {
	c.tb.Helper()
	before := c.countReads()
	c.change(func() {})
	stage.Eventually(c.tb, 20*time.Second, func() error {
		if c.countReads() == before {
			return errors.New("nobody has looked at the change")
		}
		return nil
	})
}

func (c *Cache) countReads() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reads
}

// SetReady says whether the first sync is done.
func (c *Cache) SetReady(ready bool) { c.change(func() { c.unready = !ready }) }

// Fail makes every Update give err; nil ends it.
func (c *Cache) Fail(err error) { c.change(func() { c.failure = err }) }

// Ready reports whether the first sync is done.
func (c *Cache) Ready() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.unready
}

// Subscribe watches what a process with these selectors may have.
func (c *Cache) Subscribe(selectors identity.Selectors, _ string) session.Subscription {
	return &subscription{cache: c, selectors: selectors}
}

// FetchJWT signs a token for each identity of the selectors, or for id.
func (c *Cache) FetchJWT(_ context.Context, selectors identity.Selectors, _ string,
	id spiffeid.ID, audience []string) ([]cache.JWTSVID, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []cache.JWTSVID
	for _, h := range c.entries {
		if selectors.Contains(h.selectors) && (id.IsZero() || h.ID == id) {
			list = append(list, cache.JWTSVID{ID: h.ID, Hint: h.Hint, Token: c.authority.Token(h.ID, audience)})
		}
	}
	if len(list) == 0 {
		return nil, session.NoIdentity()
	}
	return list, nil
}

type subscription struct {
	cache     *Cache
	selectors identity.Selectors
}

func (s *subscription) Changed() <-chan struct{} {
	s.cache.mu.Lock()
	defer s.cache.mu.Unlock()
	return s.cache.changed
}

func (s *subscription) Update(context.Context) (*cache.Update, error) {
	return s.cache.state(s.selectors)
}

func (s *subscription) Bundles() (session.Bundles, error) { return s.cache.Bundles(s.selectors) }

// Bundles gives all bundles to whoever is entitled to an identity.
func (c *Cache) Bundles(selectors identity.Selectors) (session.Bundles, error) {
	update, err := c.state(selectors)
	if err != nil {
		return nil, err
	}
	return update.Bundles, nil
}

func (c *Cache) state(selectors identity.Selectors) (*cache.Update, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reads++
	if c.failure != nil {
		return nil, c.failure
	}
	update := &cache.Update{Bundles: maps.Clone(c.bundles)}
	for _, h := range c.entries {
		if selectors.Contains(h.selectors) {
			update.Identities = append(update.Identities, h.identity)
		}
	}
	if len(update.Identities) == 0 {
		return nil, session.NoIdentity()
	}
	return update, nil
}

func (s *subscription) Close() {}
