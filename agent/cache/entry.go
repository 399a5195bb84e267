package cache

import (
	"time"

	"github.com/authsec-ai/icp/identity"
)

// entry is one revision of a registration entry with what was issued for it.
// Entry never changes; the rest is guarded by Cache.mu.
type entry struct {
	identity.Entry
	filed identity.Selector // the selector that the index has it under

	svid     *issued  // nil until somebody asked for it
	previous *issued  // of the revision before; stands in while svid can't be had
	issuing  *issuing // under way, nil if nothing is

	failure  error     // of the last attempt, nil after a success
	attempts int       // failures in a row
	retryAt  time.Time // not before, after a failure
	alerted  bool      // the SVID was reported as overdue
	pending  *pending  // request of a failed attempt, to be repeated as it was

	holders map[*Subscription]struct{} // who has its SVID; it is renewed on behalf of one of them
	usedAt  time.Time                  // when the last of them closed

	jwts map[string]*jwt // by audience
}

// asker is an attested process on whose behalf something is issued.
type asker struct {
	selectors identity.Selectors
	evidence  string
}

// usable gives the SVID of this revision if it has not expired.
func (e *entry) usable(now time.Time) *issued {
	if e.svid == nil || e.svid.expired(now) {
		return nil
	}
	return e.svid
}

// fallback gives the SVID of the revision before if it has not expired.
func (e *entry) fallback(now time.Time) *issued {
	if e.previous == nil || e.previous.expired(now) {
		return nil
	}
	return e.previous
}

// refused reports whether the server said that this revision is not to be had
// on this node, as opposed to not now.
func (e *entry) refused() bool {
	switch identity.CodeOf(e.failure) {
	case identity.Denied, identity.NotFound, identity.Conflict:
		return true
	}
	return false
}

// issued is an SVID with the times at which something is to happen to it. It
// never changes.
type issued struct {
	Identity
	renewAt   time.Time
	alertAt   time.Time
	expiresAt time.Time // by the agent's clock, also when that is wrong
	notAfter  time.Time // as signed
}

// expired reports whether the SVID must no longer be served. Both ends count:
// the signed one, and its distance from when the SVID arrived, which an agent
// whose clock is behind would otherwise overrun.
func (s *issued) expired(now time.Time) bool {
	return !now.Before(s.expiresAt) || !now.Before(s.notAfter)
}

// schedule sets the times of an SVID that arrived at now. A fraction is of the
// time that is left, at most the whole lifetime; jitter in [0, 1) makes
// renewal a little earlier so that agents spread.
func (s *issued) schedule(now time.Time, fraction, jitter float64) {
	leaf := s.SVID.Certificates[0]
	left := min(leaf.NotAfter.Sub(now), leaf.NotAfter.Sub(leaf.NotBefore))
	at := func(f float64) time.Time { return now.Add(time.Duration(f * float64(left))) }
	const spread = 0.05 // of the fraction
	s.renewAt = at(fraction * (1 - spread*jitter))
	s.alertAt = at(max(0.9, (1+fraction)/2))
	s.expiresAt, s.notAfter = now.Add(left), leaf.NotAfter
}
