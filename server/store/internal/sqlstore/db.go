// Package sqlstore implements store.Store once, on database/sql. Packages
// sqlite and postgres open the database, bring its tables up to date and say in
// a Dialect what differs.
//
// How a mutation runs (mutate): the body checks and writes the rows; it names
// its changes and its audit event in the transaction; close then takes the
// tenant's counter, numbers everything and writes it; then the commit. The
// counter row stays locked from there to the commit, so revisions become
// visible in order. Mutations that arrive while another one runs share the
// next transaction, each inside a savepoint of its own.
package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/authsec-ai/icp/server/store"
)

// Config says what a DB works on. All fields are required but the last three.
type Config struct {
	Write   *sql.DB // closed by Close
	Read    *sql.DB // may be Write
	Dialect Dialect
	// OneWriter says that the database takes one writer at a time, so all
	// writes may as well share transactions.
	OneWriter    bool
	PollInterval time.Duration // between looks for what other processes wrote
	Log          *slog.Logger
	// Announce tells other processes that tenants have changed.
	Announce func(ctx context.Context, tenants []string) error
	// Listen calls heard for each tenant that another process announces, and
	// heard("") when announcements may have been missed. It returns when ctx
	// ends or the connection is lost.
	Listen func(ctx context.Context, heard func(tenant string)) error
	// Closed runs at the end of Close.
	Closed func()
}

// DB is a store.Store. Close it.
type DB struct {
	cfg   Config
	lanes *lanes
	watch *watch
	hooks hooks

	stop    context.CancelFunc
	running sync.WaitGroup
}

// hooks let a test stand between two steps of a write.
type hooks struct {
	number       func(ctx context.Context, t *tx, tenant string, c count) (counters, error)
	beforeCommit func(scope Scope) error
}

var _ store.Store = (*DB)(nil)

// New starts a DB on a database whose tables are up to date.
func New(cfg Config) (*DB, error) {
	if cfg.Write == nil || cfg.Read == nil || cfg.Dialect == nil || cfg.Log == nil || cfg.PollInterval <= 0 {
		return nil, errors.New("sqlstore: Write, Read, Dialect, Log and a positive PollInterval are required")
	}
	ctx, stop := context.WithCancel(context.Background())
	db := &DB{cfg: cfg, watch: newWatch(), stop: stop}
	db.hooks = hooks{number: takeCounters, beforeCommit: func(Scope) error { return nil }}
	db.lanes = newLanes(cfg.OneWriter, db.runBatch)
	db.running.Go(func() { db.follow(ctx) })
	if cfg.Announce != nil {
		db.running.Go(func() { db.announce(ctx) })
	}
	if cfg.Listen != nil {
		db.running.Go(func() { db.listen(ctx) })
	}
	return db, nil
}

// Close ends what runs in the background, waits for writes in flight and
// closes the database.
func (db *DB) Close() error {
	db.lanes.close()
	db.stop()
	db.running.Wait()
	err := db.cfg.Write.Close()
	if db.cfg.Read != db.cfg.Write {
		err = errors.Join(err, db.cfg.Read.Close())
	}
	if db.cfg.Closed != nil {
		db.cfg.Closed()
	}
	return err
}

// Ping implements store.Store.
func (db *DB) Ping(ctx context.Context) error {
	return db.failed("reach the database", db.cfg.Read.PingContext(ctx))
}

// tx is one transaction in one scope.
type tx struct {
	*sql.Tx
	dialect Dialect
	records []*record // of mutations, in order; written by finish
}

func (t *tx) exec(ctx context.Context, query string, args ...any) (int64, error) {
	result, err := t.ExecContext(ctx, t.dialect.Statement(query), args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

func (t *tx) row(ctx context.Context, query string, args ...any) *sql.Row {
	return t.QueryRowContext(ctx, t.dialect.Statement(query), args...)
}

// anyOf gives the condition that column is one of values, and its argument,
// which is parameter param. One value takes less than a list.
func anyOf(d Dialect, column string, param int, values []string) (condition string, arg any) {
	if len(values) == 1 {
		return fmt.Sprintf("%s = $%d", column, param), values[0]
	}
	return d.AnyOf(column, param), d.List(values)
}

func scanText(row Row) (text string, err error) {
	err = row.Scan(&text)
	return text, err
}

func setOf(list []string) map[string]bool {
	set := make(map[string]bool, len(list))
	for _, item := range list {
		set[item] = true
	}
	return set
}

// list runs a query and reads all its rows.
func list[T any](ctx context.Context, t *tx, scan func(Row) (T, error), query string, args ...any) ([]T, error) {
	rows, err := t.QueryContext(ctx, t.dialect.Statement(query), args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []T
	for rows.Next() {
		item, err := scan(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, item)
	}
	return out, rows.Err()
}

// read runs body on one snapshot of one tenant's rows.
func (db *DB) read(ctx context.Context, doing, tenant string, body func(t *tx) error) error {
	return db.readIn(ctx, doing, Scope{Tenant: tenant}, body)
}

// readAcross runs body on one snapshot of every tenant's rows. It serves the
// few questions that are asked before the tenant is known.
func (db *DB) readAcross(ctx context.Context, doing string, body func(t *tx) error) error {
	return db.readIn(ctx, doing, Scope{Across: true}, body)
}

func (db *DB) readIn(ctx context.Context, doing string, scope Scope, body func(t *tx) error) error {
	err := db.attempt(func() error {
		return db.transact(ctx, db.cfg.Read, db.cfg.Dialect.ReadOptions(), scope, body)
	})
	return db.failed(doing, err)
}

// ask runs a query that needs no other beside it, and reads all its rows. It
// costs less than read.
func ask[T any](ctx context.Context, db *DB, doing string, scope Scope, scan func(Row) (T, error), query string, args ...any) ([]T, error) {
	var out []T
	err := db.attempt(func() error {
		out = nil
		return db.cfg.Dialect.Ask(ctx, db.cfg.Read, scope, query, args, func(row Row) error {
			item, err := scan(row)
			out = append(out, item)
			return err
		})
	})
	if err != nil {
		return nil, db.failed(doing, err)
	}
	return out, nil
}

// askOne is ask for one row, which is of a kind and has an id. Without it the
// answer is NotFound.
func askOne[T any](ctx context.Context, db *DB, kind, id string, scope Scope, scan func(Row) (T, error), query string, args ...any) (T, error) {
	found, err := ask(ctx, db, "read "+kind, scope, scan, query, args...)
	if err == nil && len(found) == 0 {
		err = notFound(kind, id)
	}
	if err != nil {
		var none T
		return none, err
	}
	return found[0], nil
}

// transact runs body in a transaction and commits it if body answers nil.
func (db *DB) transact(ctx context.Context, on *sql.DB, opts *sql.TxOptions, scope Scope, body func(t *tx) error) error {
	raw, err := on.BeginTx(ctx, opts)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer raw.Rollback() // does nothing after Commit
	t := &tx{Tx: raw, dialect: db.cfg.Dialect}
	if err := t.dialect.Enter(ctx, raw, scope); err != nil {
		return fmt.Errorf("enter scope: %w", err)
	}
	if err := body(t); err != nil {
		return err
	}
	return raw.Commit()
}
