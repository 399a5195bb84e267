package cache

import (
	"context"
	"slices"
	"time"

	"github.com/authsec-ai/icp/internal/wire"
)

const (
	// lookAgain is the longest pause between two looks at what is due: the
	// machine may have slept, or its clock been set.
	lookAgain = time.Minute
	// keepUnused is how long an SVID that nobody watches is kept.
	keepUnused = 10 * time.Minute
	// First and longest pause after a failed attempt. While there is nothing to
	// serve the longest is waitingBackOff; SVIDs that live shortly have shorter
	// ones.
	firstBackOff   = time.Second
	maxBackOff     = 30 * time.Second
	waitingBackOff = 5 * time.Second
)

// renewing replaces SVIDs when they are due, for as long as somebody watches
// them. One batch is under way at a time: processes that wait come first, by
// batches of their own.
func (c *Cache) renewing(ctx context.Context) {
	for ctx.Err() == nil {
		due, next := c.due()
		for batch := range slices.Chunk(due, wire.MaxBatch) {
			c.issue(ctx, batch)
		}
		wake, stop := c.clock.At(next)
		select {
		case <-ctx.Done():
		case <-c.kick:
		case <-wake:
		}
		stop()
	}
}

// due begins what is due and gives when there is something next.
func (c *Cache) due() ([]*issuing, time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clock.Now()
	next := now.Add(lookAgain)
	var due []*issuing
	for _, e := range c.entries {
		if len(e.holders) == 0 {
			e.tidy(now)
			continue
		}
		c.alert(e, now)
		at, ok := e.nextAttempt(now)
		switch {
		case !ok:
		case !at.After(now):
			due = append(due, c.begin(e, e.anyHolder()))
		case at.Before(next):
			next = at
		}
	}
	return due, next
}

// anyHolder gives the attested process on whose behalf e is renewed.
func (e *entry) anyHolder() asker {
	for s := range e.holders {
		return s.asker
	}
	return asker{}
}

// tidy drops what nobody has watched for a while.
func (e *entry) tidy(now time.Time) {
	if e.svid == nil || e.issuing != nil {
		return
	}
	if e.svid.expired(now) || now.Sub(e.usedAt) > keepUnused {
		e.svid, e.previous = nil, nil
	}
}

// nextAttempt gives when e is to be issued; false if that is not for the
// renewal to do.
func (e *entry) nextAttempt(now time.Time) (time.Time, bool) {
	switch {
	case e.issuing != nil:
		return time.Time{}, false
	case e.failure != nil:
		return e.retryAt, true
	case e.svid == nil:
		return time.Time{}, false // whoever wants it asks for it
	case e.svid.expired(now):
		return now, true
	}
	return e.svid.renewAt, true
}

// alert reports, once, an SVID that is close to its end without a successor.
func (c *Cache) alert(e *entry, now time.Time) {
	if e.svid == nil || e.alerted || now.Before(e.svid.alertAt) {
		return
	}
	e.alerted = true
	c.metrics.overdue.Add(context.Background(), 1)
	c.log.Error("SVID could not be renewed and is about to expire; the server must be reachable before then",
		"entry", e.ID, "spiffe_id", e.SPIFFEID.String(), "expires_at", e.svid.notAfter, "attempts", e.attempts, "error", e.failure)
}

// backOff gives the pause after the latest of e's failed attempts: doubling,
// with jitter, and in proportion to how long its SVIDs live.
func (e *entry) backOff(jitter float64) time.Duration {
	first, most := firstBackOff, waitingBackOff
	if e.svid != nil {
		left := e.svid.expiresAt.Sub(e.svid.renewAt)
		first, most = min(firstBackOff, left/20), min(maxBackOff, left/5)
	}
	pause := most
	if doublings := e.attempts - 1; doublings < 16 {
		pause = min(most, first<<doublings)
	}
	return pause/2 + time.Duration(jitter*float64(pause/2))
}
