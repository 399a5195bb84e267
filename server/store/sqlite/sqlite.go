// Package sqlite keeps the store in one SQLite file, for one organisation on
// one machine. Tenants are kept apart by the statements alone; package postgres
// has a second lock.
package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"time"

	driver "modernc.org/sqlite"
	codes "modernc.org/sqlite/lib"

	"github.com/authsec-ai/icp/server/store"
	"github.com/authsec-ai/icp/server/store/internal/sqlstore"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Options are optional; the zero value is for production.
type Options struct {
	// PollInterval is how often to look for what other processes wrote; 0
	// means 250 ms. Changes of this process are seen at once.
	PollInterval time.Duration
	// Log gets warnings; nil means none.
	Log *slog.Logger
	// LoseOnPowerCut trades the last commits at a power cut for speed. A crash
	// or kill of the program loses nothing either way.
	LoseOnPowerCut bool
	// BusyTimeout is how long to wait for another process's write; 0 means 5 s.
	BusyTimeout time.Duration
}

const readers = 8 // connections

// Open opens the database file at path, makes it if it is absent (readable by
// its owner alone) and brings its tables up to date. The error is one line that
// names the file and what to do.
func Open(ctx context.Context, path string, opts Options) (store.Store, error) {
	db, err := open(ctx, path, withDefaults(opts))
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, explain(err))
	}
	return db, nil
}

func withDefaults(opts Options) Options {
	if opts.PollInterval == 0 {
		opts.PollInterval = 250 * time.Millisecond
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.BusyTimeout == 0 {
		opts.BusyTimeout = 5 * time.Second
	}
	return opts
}

func open(ctx context.Context, path string, opts Options) (*sqlstore.DB, error) {
	if err := createPrivate(path); err != nil {
		return nil, err
	}
	write, err := openDB(dataSource(path, opts), beginWriting)
	if err != nil {
		return nil, err
	}
	write.SetMaxOpenConns(1)
	write.SetMaxIdleConns(1)
	if err := migrate(ctx, write); err != nil {
		return nil, errors.Join(err, write.Close())
	}
	read, err := openDB(dataSource(path, opts, "query_only(1)"), beginReading)
	if err != nil {
		return nil, errors.Join(err, write.Close())
	}
	read.SetMaxOpenConns(readers)
	read.SetMaxIdleConns(readers)
	return sqlstore.New(sqlstore.Config{Write: write, Read: read, Dialect: dialect{}, OneWriter: true,
		PollInterval: opts.PollInterval, Log: opts.Log})
}

// createPrivate makes the file before SQLite does, which would leave its mode
// to the umask. Its -wal and -shm files take the same mode.
func createPrivate(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

func dataSource(path string, opts Options, pragmas ...string) string {
	synchronous := "FULL"
	if opts.LoseOnPowerCut {
		synchronous = "NORMAL"
	}
	q := url.Values{}
	for _, pragma := range append([]string{
		fmt.Sprintf("busy_timeout(%d)", opts.BusyTimeout.Milliseconds()),
		"journal_mode(WAL)",
		"foreign_keys(1)",
		fmt.Sprintf("synchronous(%s)", synchronous),
	}, pragmas...) {
		q.Add("_pragma", pragma)
	}
	return (&url.URL{Scheme: "file", OmitHost: true, Path: path, RawQuery: q.Encode()}).String()
}

func migrate(ctx context.Context, db *sql.DB) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	return sqlstore.Migrate(ctx, db, sqlstore.Migrations{Files: files,
		Exists: `SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE name = 'icp_schema')`})
}

// explain says what a failure to open means for whoever runs the server.
func explain(err error) error {
	var e *driver.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Code() & 0xff {
	case codes.SQLITE_BUSY, codes.SQLITE_LOCKED:
		return fmt.Errorf("another process is writing to it and does not stop; end that process (%w)", err)
	case codes.SQLITE_NOTADB, codes.SQLITE_CORRUPT:
		return fmt.Errorf("the file is damaged or not an SQLite database; restore it from a backup (%w)", err)
	case codes.SQLITE_READONLY, codes.SQLITE_CANTOPEN:
		return fmt.Errorf("the file and its folder must be writable (%w)", err)
	}
	return err
}
