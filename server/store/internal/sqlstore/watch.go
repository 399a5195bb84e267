package sqlstore

import (
	"context"
	"sync"
	"time"

	"github.com/authsec-ai/icp/server/store"
)

// watch knows the newest cursor seen of each tenant that somebody waits for.
type watch struct {
	mu      sync.Mutex
	tenants map[string]*watched
	stale   map[string]bool // tenants whose cursor is to be read
	changed map[string]bool // tenants to announce to other processes

	look chan struct{} // has a token when stale is not empty
	tell chan struct{} // has a token when changed is not empty
}

// watched is one tenant's state; it lives while somebody waits.
type watched struct {
	waiting int
	cursor  store.Cursor
	moved   chan struct{} // closed and replaced when cursor moves
}

func newWatch() *watch {
	return &watch{tenants: map[string]*watched{}, stale: map[string]bool{}, changed: map[string]bool{},
		look: make(chan struct{}, 1), tell: make(chan struct{}, 1)}
}

func (w *watch) join(tenant string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.tenants[tenant] == nil {
		w.tenants[tenant] = &watched{moved: make(chan struct{})}
	}
	w.tenants[tenant].waiting++
}

func (w *watch) leave(tenant string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.tenants[tenant].waiting--; w.tenants[tenant].waiting == 0 {
		delete(w.tenants, tenant)
	}
}

// state gives a joined tenant's cursor and the channel that its next move closes.
func (w *watch) state(tenant string) (store.Cursor, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.tenants[tenant].cursor, w.tenants[tenant].moved
}

// publish wakes those who wait for tenant, unless a newer cursor is known.
func (w *watch) publish(tenant string, c store.Cursor) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.tenants[tenant]
	if t == nil || !past(c, t.cursor) {
		return
	}
	t.cursor = c
	close(t.moved)
	t.moved = make(chan struct{})
}

// past reports whether c is news to somebody who knows before.
func past(c, before store.Cursor) bool {
	return c.Epoch != before.Epoch || c.Revision > before.Revision
}

func (w *watch) toAnnounce(tenant string) {
	w.mu.Lock()
	w.changed[tenant] = true
	w.mu.Unlock()
	signal(w.tell)
}

// heard notes that tenant may have moved; "" stands for all tenants.
func (w *watch) heard(tenant string) {
	w.mu.Lock()
	for name := range w.tenants {
		if tenant == "" || tenant == name {
			w.stale[name] = true
		}
	}
	some := len(w.stale) > 0
	w.mu.Unlock()
	if some {
		signal(w.look)
	}
}

func (w *watch) takeStale() []string   { return w.take(&w.stale) }
func (w *watch) takeChanged() []string { return w.take(&w.changed) }

func (w *watch) take(set *map[string]bool) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	names := make([]string, 0, len(*set))
	for name := range *set {
		names = append(names, name)
	}
	*set = map[string]bool{}
	return names
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Wait implements store.Tenants.
func (db *DB) Wait(ctx context.Context, tenant string, after store.Cursor) (store.Cursor, error) {
	db.watch.join(tenant)
	defer db.watch.leave(tenant)
	t, err := db.Tenant(ctx, tenant)
	if err != nil {
		return store.Cursor{}, err
	}
	db.watch.publish(tenant, t.Cursor)
	for {
		cursor, moved := db.watch.state(tenant)
		if past(cursor, after) {
			return cursor, nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return cursor, ctx.Err()
		}
	}
}

// follow reads the cursors of the tenants that somebody waits for: when another
// process announces a change, and every PollInterval for what was missed.
func (db *DB) follow(ctx context.Context) {
	tick := time.NewTicker(db.cfg.PollInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			db.watch.heard("")
		case <-db.watch.look:
			db.refresh(ctx, db.watch.takeStale())
		}
	}
}

func (db *DB) refresh(ctx context.Context, tenants []string) {
	if len(tenants) == 0 {
		return
	}
	type moved struct {
		tenant string
		cursor store.Cursor
	}
	var found []moved
	err := db.readAcross(ctx, "read cursors", func(t *tx) error {
		var err error
		found, err = list(ctx, t, func(row Row) (m moved, err error) {
			err = row.Scan(&m.tenant, &m.cursor.Epoch, &m.cursor.Revision)
			return m, err
		}, `SELECT tenant, epoch, revision FROM counters WHERE `+t.dialect.AnyOf("tenant", 1), t.dialect.List(tenants))
		return err
	})
	if err != nil {
		if ctx.Err() == nil {
			db.cfg.Log.Warn("can't see what other processes changed; trying again", "error", err)
		}
		return
	}
	for _, m := range found {
		db.watch.publish(m.tenant, m.cursor)
	}
}

// announce tells other processes which tenants changed. Those that commit while
// it speaks share the next announcement.
func (db *DB) announce(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-db.watch.tell:
		}
		if err := db.cfg.Announce(ctx, db.watch.takeChanged()); err != nil && ctx.Err() == nil {
			db.cfg.Log.Warn("can't announce changes; other servers see them when they poll", "error", err)
		}
	}
}

// listen keeps an ear open until ctx ends.
func (db *DB) listen(ctx context.Context) {
	const pause = time.Second
	for ctx.Err() == nil {
		err := db.cfg.Listen(ctx, db.watch.heard)
		if ctx.Err() != nil {
			return
		}
		db.cfg.Log.Warn("can't hear what other servers announce; polling until that is back", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}
