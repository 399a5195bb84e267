// Package postgres keeps the store in PostgreSQL (15 or later), for many
// tenants and many servers. Row-level security keeps tenants apart beside the
// statements: each transaction names its tenant and sees no other.
package postgres

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/authsec-ai/icp/server/store"
	"github.com/authsec-ai/icp/server/store/internal/sqlstore"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Options are optional; the zero value is for production.
type Options struct {
	// MigrateDSN connects as the owner of the tables, only to bring them up to
	// date and to let the role of the other DSN use them. "" means that the
	// other DSN's role may do that.
	MigrateDSN string
	// PollInterval is how often to look for what other servers wrote and did
	// not announce; 0 means 250 ms.
	PollInterval time.Duration
	// Log gets warnings; nil means none.
	Log *slog.Logger
}

// channel carries the tenants that changed, from server to server.
const channel = "icp_changes"

// lock lets one server at a time change tables and rights.
const lock = `SELECT pg_advisory_xact_lock(hashtext('icp_schema'))`

const defaultConns = 16 // unless the DSN has pool_max_conns

// Open connects to the database that dsn names (a URL or key=value text, with
// pgx's pool settings) and brings its tables up to date. The error is one line
// that says what to do and has no password.
func Open(ctx context.Context, dsn string, opts Options) (store.Store, error) {
	if opts.PollInterval == 0 {
		opts.PollInterval = 250 * time.Millisecond
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	db, err := open(ctx, dsn, opts)
	if err != nil {
		return nil, fmt.Errorf("open PostgreSQL database: %w", oneLine{err})
	}
	return db, nil
}

func open(ctx context.Context, dsn string, opts Options) (*sqlstore.DB, error) {
	cfg, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, err
	}
	if !strings.Contains(dsn, "pool_max_conns") {
		cfg.MaxConns = defaultConns
	}
	if opts.MigrateDSN != "" {
		if err := migrateAsOwner(ctx, opts.MigrateDSN, cfg.ConnConfig.User); err != nil {
			return nil, fmt.Errorf("as the owner of the tables: %w", err)
		}
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	db := stdlib.OpenDBFromPool(pool)
	if err := prepare(ctx, db, opts.Log); err != nil {
		err = errors.Join(err, db.Close())
		pool.Close()
		return nil, err
	}
	return sqlstore.New(sqlstore.Config{Write: db, Read: db, Dialect: dialect{}, PollInterval: opts.PollInterval,
		Log: opts.Log, Announce: announcer(pool), Listen: listener(cfg.ConnConfig), Closed: pool.Close})
}

// prepare brings the tables up to date and looks whether the second lock holds.
func prepare(ctx context.Context, db *sql.DB, log *slog.Logger) error {
	if err := migrate(ctx, db); err != nil {
		return err
	}
	var free bool
	err := db.QueryRowContext(ctx, `SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user`).Scan(&free)
	if err != nil {
		return fmt.Errorf("read the role's rights: %w", err)
	}
	if free {
		log.Warn("row-level security does not bind this database role; use one that is no superuser and has no BYPASSRLS")
	}
	return nil
}

func migrate(ctx context.Context, db *sql.DB) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	return sqlstore.Migrate(ctx, db, sqlstore.Migrations{Files: files,
		Exists: `SELECT to_regclass('icp_schema') IS NOT NULL`,
		Lock:   lock,
	})
}

// migrateAsOwner migrates and lets role read and write rows.
func migrateAsOwner(ctx context.Context, dsn, role string) error {
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		return err
	}
	db := stdlib.OpenDB(*cfg)
	defer db.Close()
	if err := migrate(ctx, db); err != nil {
		return err
	}
	if role == cfg.User {
		return nil
	}
	return grant(ctx, db, role)
}

// grant lets role read and write rows. Two servers must not do it at once:
// PostgreSQL fails one of them.
func grant(ctx context.Context, db *sql.DB, role string) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // does nothing after Commit
	to := pgx.Identifier{role}.Sanitize()
	for _, statement := range []string{
		lock,
		`GRANT USAGE ON SCHEMA public TO ` + to,
		`GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO ` + to,
		`REVOKE INSERT, UPDATE, DELETE ON icp_schema FROM ` + to,
	} {
		if _, err := tx.ExecContext(ctx, statement); err != nil {
			return fmt.Errorf("grant rights to %s: %w", role, err)
		}
	}
	return tx.Commit()
}

func announcer(pool *pgxpool.Pool) func(context.Context, []string) error {
	return func(ctx context.Context, tenants []string) error {
		_, err := pool.Exec(ctx, `SELECT pg_notify($1, tenant) FROM unnest($2::text[]) AS tenant`, channel, tenants)
		return err
	}
}

// listener keeps a connection of its own, outside the pool.
func listener(cfg *pgx.ConnConfig) func(context.Context, func(string)) error {
	return func(ctx context.Context, heard func(tenant string)) error {
		conn, err := pgx.ConnectConfig(ctx, cfg.Copy())
		if err != nil {
			return err
		}
		defer hangUp(conn)
		if _, err := conn.Exec(ctx, `LISTEN `+channel); err != nil {
			return err
		}
		heard("") // what was announced before this connection listened
		for {
			n, err := conn.WaitForNotification(ctx)
			if err != nil {
				return err
			}
			heard(n.Payload)
		}
	}
}

func hangUp(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx) // it may be lost already
}

// oneLine prints a driver's error, which may have several lines, as one.
type oneLine struct{ error }

func (e oneLine) Error() string { return strings.Join(strings.Fields(e.error.Error()), " ") }

func (e oneLine) Unwrap() error { return e.error }
