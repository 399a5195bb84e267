package sqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"io/fs"
	"slices"
)

// Migrations bring a database's tables up to date.
type Migrations struct {
	Files  fs.FS  // *.sql; the n-th by name makes data version n
	Exists string // query: does table icp_schema exist?
	Lock   string // statement that lets one process at a time migrate, "" if a transaction does
}

// Migrate runs what is missing, each step in one transaction with its version
// number. A database of a newer program is an error.
func Migrate(ctx context.Context, db *sql.DB, m Migrations) error {
	names, err := fs.Glob(m.Files, "*.sql")
	if err != nil {
		return fmt.Errorf("list migrations: %w", err)
	}
	slices.Sort(names)
	for range names {
		done, err := m.step(ctx, db, names)
		if err != nil || done {
			return err
		}
	}
	return m.Check(ctx, db)
}

// step runs one migration; done says that there was none to run.
func (m Migrations) step(ctx context.Context, db *sql.DB, names []string) (done bool, err error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return false, fmt.Errorf("begin migration: %w", err)
	}
	defer tx.Rollback() // does nothing after Commit
	if m.Lock != "" {
		if _, err := tx.ExecContext(ctx, m.Lock); err != nil {
			return false, fmt.Errorf("wait for other migrations: %w", err)
		}
	}
	version, err := m.version(ctx, tx)
	if err != nil {
		return false, err
	}
	if version >= len(names) {
		return true, checkVersion(version, len(names))
	}
	if err := apply(ctx, tx, m.Files, names[version], version+1); err != nil {
		return false, err
	}
	return false, tx.Commit()
}

func apply(ctx context.Context, tx *sql.Tx, files fs.FS, name string, version int) error {
	text, err := fs.ReadFile(files, name)
	if err != nil {
		return fmt.Errorf("read migration: %w", err)
	}
	if _, err := tx.ExecContext(ctx, string(text)); err != nil {
		return fmt.Errorf("migration %s: %w", name, err)
	}
	if _, err := tx.ExecContext(ctx, fmt.Sprintf(`INSERT INTO icp_schema (version) VALUES (%d)`, version)); err != nil {
		return fmt.Errorf("migration %s: write the data version: %w", name, err)
	}
	return nil
}

// Check fails unless the database has exactly the newest data version.
func (m Migrations) Check(ctx context.Context, db *sql.DB) error {
	names, err := fs.Glob(m.Files, "*.sql")
	if err != nil {
		return fmt.Errorf("list migrations: %w", err)
	}
	version, err := m.version(ctx, db)
	if err != nil {
		return err
	}
	return checkVersion(version, len(names))
}

func checkVersion(version, known int) error {
	switch {
	case version > known:
		return fmt.Errorf("it has data version %d and this program knows versions up to %d: run the newer program", version, known)
	case version < known:
		return fmt.Errorf("it has data version %d and this program needs %d: migrate it as the owner of the tables", version, known)
	}
	return nil
}

// querier is a *sql.DB or *sql.Tx.
type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// version gives the data version, 0 for an empty database.
func (m Migrations) version(ctx context.Context, q querier) (int, error) {
	var exists bool
	if err := q.QueryRowContext(ctx, m.Exists).Scan(&exists); err != nil {
		return 0, fmt.Errorf("look for its tables: %w", err)
	}
	if !exists {
		return 0, nil
	}
	var version int
	if err := q.QueryRowContext(ctx, `SELECT COALESCE(MAX(version), 0) FROM icp_schema`).Scan(&version); err != nil {
		return 0, fmt.Errorf("read its data version: %w", err)
	}
	if version == 0 {
		return 0, fmt.Errorf("its table icp_schema has no data version; it is damaged, or not a database of ICP")
	}
	return version, nil
}
