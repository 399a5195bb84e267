package cache

import (
	"reflect"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/authsec-ai/icp/identity"
)

// Change is one complete step of the server's state.
type Change struct {
	Reset   bool // forget every entry that is not in Upserts
	Upserts []identity.Entry
	Deletes []string // entry ids
	// Bundles is complete when present; nil changes nothing.
	Bundles map[spiffeid.TrustDomain]*spiffebundle.Bundle
	// RenewAt is the default fraction of a lifetime at which SVIDs are renewed;
	// 0 changes nothing.
	RenewAt float64
}

// Apply makes the cache equal the server. Readers see all of the change or none
// of it; who watches something that it touches is woken.
func (c *Cache) Apply(ch Change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.synced = true
	if ch.RenewAt > 0 && ch.RenewAt < 1 {
		c.renewAt = ch.RenewAt
	}
	if ch.Reset {
		c.forgetAllBut(ch.Upserts)
	}
	for _, id := range ch.Deletes {
		c.forget(id)
	}
	for _, e := range ch.Upserts {
		c.upsert(e)
	}
	newBundles := ch.Bundles != nil && !equalBundles(c.bundles, ch.Bundles)
	if newBundles {
		c.bundles = ch.Bundles
	}
	for s := range c.subs {
		if s.rematch() || newBundles {
			s.wake()
		}
	}
	signal(c.kick)
}

func (c *Cache) forgetAllBut(keep []identity.Entry) {
	kept := make(map[string]bool, len(keep))
	for _, e := range keep {
		kept[e.ID] = true
	}
	for id := range c.entries {
		if !kept[id] {
			c.forget(id)
		}
	}
}

func (c *Cache) forget(id string) {
	e, ok := c.entries[id]
	if !ok {
		return
	}
	delete(c.entries, id)
	c.index.remove(e)
	c.countAsked(e, -1)
}

// upsert puts an entry in the place of what is known under its id. SVIDs belong
// to one revision of an entry, so one that changed starts without; its old SVID
// is kept for the time in which the new one can't be had.
func (c *Cache) upsert(spec identity.Entry) {
	old := c.entries[spec.ID]
	if old != nil && reflect.DeepEqual(old.Entry, spec) {
		return
	}
	e := &entry{Entry: spec}
	if old != nil {
		e.previous = old.standIn(spec)
		c.forget(spec.ID)
	}
	c.entries[spec.ID] = e
	c.index.add(e)
	c.countAsked(e, 1)
}

func (c *Cache) countAsked(e *entry, n int) {
	for _, s := range e.Selectors {
		key, _, _ := strings.Cut(s.Value, ":")
		c.asked[s.Type+":"+key] += n
	}
}

func equalBundles(a, b map[spiffeid.TrustDomain]*spiffebundle.Bundle) bool {
	if len(a) != len(b) {
		return false
	}
	for td, bundle := range a {
		other, ok := b[td]
		if !ok || !bundle.Equal(other) {
			return false
		}
	}
	return true
}

// standIn gives the SVID that may stand in for one of the next revision:
// only if it proves the same identity under the same names.
func (e *entry) standIn(next identity.Entry) *issued {
	if e.SPIFFEID != next.SPIFFEID || !slices.Equal(e.DNSNames, next.DNSNames) {
		return nil
	}
	if e.svid != nil {
		return e.svid
	}
	return e.previous
}
