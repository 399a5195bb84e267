package sqlstore

import (
	"context"
	"fmt"
)

// BeforeCommit has f run at the end of each write's transaction; an error rolls it back.
func (db *DB) BeforeCommit(f func() error) {
	db.hooks.beforeCommit = func(Scope) error { return f() }
}

// NumberBySequence has the database take revisions from a sequence instead of
// the counter's row: as unique and as fast as could be, and wrong.
func (db *DB) NumberBySequence(sequence string) {
	db.hooks.number = func(ctx context.Context, t *tx, tenant string, c count) (counters, error) {
		var got counters
		err := t.row(ctx, fmt.Sprintf(`SELECT epoch, nextval('%s'), nextval('%s') FROM counters WHERE tenant = $1`, sequence, sequence), tenant).
			Scan(&got.epoch, &got.revision, &got.seq)
		return got, err
	}
}

// Queued counts the mutations that wait for a transaction.
func (db *DB) Queued() int {
	db.lanes.mu.Lock()
	defer db.lanes.mu.Unlock()
	n := 0
	for _, queue := range db.lanes.queues {
		n += len(queue)
	}
	return n
}
