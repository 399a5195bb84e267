package ca

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	// closeDelay is how long issuances wait to be closed together with others.
	closeDelay = 50 * time.Millisecond
	// closeTimeout bounds the closing of one tenant's issuances.
	closeTimeout = 5 * time.Second
)

// closer marks recorded intents as issued, some time after the credentials were
// released and many at once. Nothing rests on the mark: an intent that was not
// abandoned counts, and is revoked, like an issued one. One that stays an
// intent says that the server ended before it could tell.
type closer struct {
	store Store
	log   *slog.Logger

	mu      sync.Mutex
	pending map[string][]string // serials by tenant
	wake    chan struct{}       // has room for one
	stop    chan struct{}
	stopped sync.WaitGroup
	once    sync.Once
}

func startCloser(s Store, log *slog.Logger) *closer {
	c := &closer{store: s, log: log, pending: map[string][]string{},
		wake: make(chan struct{}, 1), stop: make(chan struct{})}
	c.stopped.Go(c.run)
	return c
}

// add takes over the serials of one tenant.
func (c *closer) add(tenant string, serials []string) {
	if len(serials) == 0 {
		return
	}
	c.mu.Lock()
	c.pending[tenant] = append(c.pending[tenant], serials...)
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// close marks what is pending and waits until that is done.
func (c *closer) close() {
	c.once.Do(func() { close(c.stop) })
	c.stopped.Wait()
}

func (c *closer) run() {
	for {
		select {
		case <-c.stop:
			c.flush()
			return
		case <-c.wake:
		}
		select {
		case <-c.stop:
		case <-time.After(closeDelay):
			c.flush()
		}
	}
}

func (c *closer) flush() {
	c.mu.Lock()
	batch := c.pending
	c.pending = map[string][]string{}
	c.mu.Unlock()
	for tenant, serials := range batch {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		if err := c.store.FinishIntents(ctx, tenant, serials, true); err != nil {
			c.log.Error("issued credentials stay on record as intents", "tenant", tenant, "count", len(serials), "error", err)
		}
		cancel()
	}
}
