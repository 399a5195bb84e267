// Package clock is the time that a part is given: the system's in production, a
// hand-moved one in tests.
package clock

import (
	"sync"
	"time"
)

// Clock tells the time and wakes.
type Clock interface {
	// Now is the current time.
	Now() time.Time
	// At gives a channel that receives once, at t or at once if that has passed,
	// and a function that releases the timer if it is no longer wanted. It takes
	// a point in time and not a pause, so that none is lost between a look at
	// the clock and the timer.
	At(t time.Time) (<-chan time.Time, func())
}

// System is the machine's clock.
type System struct{}

// Now is time.Now.
func (System) Now() time.Time { return time.Now() }

// At is a time.Timer.
func (System) At(t time.Time) (<-chan time.Time, func()) {
	timer := time.NewTimer(time.Until(t))
	return timer.C, func() { timer.Stop() }
}

// Manual is a Clock that moves only when it is told to.
type Manual struct {
	mu     sync.Mutex
	now    time.Time
	timers map[*manualTimer]struct{}
}

type manualTimer struct {
	at time.Time
	c  chan time.Time
}

// NewManual gives a clock that stands at now.
func NewManual(now time.Time) *Manual {
	return &Manual{now: now, timers: map[*manualTimer]struct{}{}}
}

// Now is where the clock stands.
func (m *Manual) Now() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now
}

// At arms a timer that Advance fires.
func (m *Manual) At(at time.Time) (<-chan time.Time, func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := &manualTimer{at: at, c: make(chan time.Time, 1)}
	if !at.After(m.now) {
		t.c <- m.now
		return t.c, func() {}
	}
	m.timers[t] = struct{}{}
	return t.c, func() { m.drop(t) }
}

func (m *Manual) drop(t *manualTimer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.timers, t)
}

// Advance moves the clock forward and fires what is due.
func (m *Manual) Advance(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now = m.now.Add(d)
	for t := range m.timers {
		if !t.at.After(m.now) {
			t.c <- m.now
			delete(m.timers, t)
		}
	}
}

// Next gives when the earliest armed timer fires; false if none is armed.
func (m *Manual) Next() (time.Time, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var next time.Time
	for t := range m.timers {
		if next.IsZero() || t.at.Before(next) {
			next = t.at
		}
	}
	return next, !next.IsZero()
}

var (
	_ Clock = System{}
	_ Clock = (*Manual)(nil)
)
