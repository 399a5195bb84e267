// Package quota limits how many requests a subject may make. The key is the
// SPIFFE ID that the connection proved, never an address or a header.
package quota

import (
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Key names one limit of one subject.
type Key struct {
	Subject spiffeid.ID
	Policy  string
}

// Limiter counts requests. A limit of n a minute lets n requests through at
// once, and gives back one every n-th of a minute.
type Limiter struct {
	now func() time.Time

	mu    sync.Mutex
	full  map[Key]time.Time // when all of the limit is available again
	swept time.Time
}

// New makes a Limiter that has counted nothing.
func New(now func() time.Time) *Limiter {
	return &Limiter{now: now, full: map[Key]time.Time{}, swept: now()}
}

// Allow counts a request if perMinute lets it through; otherwise it says how
// long to wait. A perMinute of 0 is no limit.
func (l *Limiter) Allow(key Key, perMinute int) (wait time.Duration, ok bool) {
	if perMinute <= 0 {
		return 0, true
	}
	step := time.Minute / time.Duration(perMinute)
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	l.sweep(now)
	full := l.full[key]
	if full.Before(now) {
		full = now
	}
	full = full.Add(step)
	if over := full.Sub(now) - time.Minute; over > 0 {
		return over, false
	}
	l.full[key] = full
	return 0, true
}

// sweep forgets, once a minute, who has all of a limit available.
func (l *Limiter) sweep(now time.Time) {
	if now.Sub(l.swept) < time.Minute {
		return
	}
	l.swept = now
	for key, full := range l.full {
		if !full.After(now) {
			delete(l.full, key)
		}
	}
}
