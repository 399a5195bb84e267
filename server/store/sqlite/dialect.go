package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	driver "modernc.org/sqlite"
	codes "modernc.org/sqlite/lib"

	"github.com/authsec-ai/icp/server/store/internal/sqlstore"
)

type dialect struct{}

// Statement turns $1 into ?1.
func (dialect) Statement(query string) string { return strings.ReplaceAll(query, "$", "?") }

// Enter does nothing: SQLite has no row-level security.
func (dialect) Enter(context.Context, *sql.Tx, sqlstore.Scope) error { return nil }

// Ask needs no more than the query: each reads one snapshot. ctx ends the wait
// for a connection; to watch it during the query would cost a goroutine.
func (d dialect) Ask(ctx context.Context, db *sql.DB, _ sqlstore.Scope, query string, args []any, each func(sqlstore.Row) error) error {
	conn, err := db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer conn.Close()
	rows, err := conn.QueryContext(context.WithoutCancel(ctx), d.Statement(query), args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := each(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// ReadOptions are the default: in WAL mode every transaction reads one snapshot.
func (dialect) ReadOptions() *sql.TxOptions { return nil }

// WriteOptions are the default: one writer at a time.
func (dialect) WriteOptions() *sql.TxOptions { return nil }

// Lock gives nothing: there is one writer, and it begins with the lock.
func (dialect) Lock(sqlstore.LockMode) string { return "" }

func (dialect) AnyOf(column string, param int) string {
	return fmt.Sprintf("%s IN (SELECT value FROM json_each($%d))", column, param)
}

func (dialect) List(values []string) any {
	text, err := json.Marshal(values)
	if err != nil || values == nil {
		return "[]"
	}
	return string(text)
}

func (dialect) Contains(column string, param int) string {
	return fmt.Sprintf("instr(%s, $%d) > 0", column, param)
}

func (dialect) Records(param int, columns ...sqlstore.Column) string {
	fields := make([]string, 0, len(columns))
	for _, c := range columns {
		fields = append(fields, fmt.Sprintf("value ->> '%s' AS %s", c.Name, c.Name))
	}
	return fmt.Sprintf("(SELECT %s FROM json_each($%d)) AS r", strings.Join(fields, ", "), param)
}

func (dialect) Classify(err error) sqlstore.Failure {
	var e *driver.Error
	switch {
	case errors.Is(err, sql.ErrConnDone):
		return sqlstore.Unavailable
	case !errors.As(err, &e):
		return sqlstore.Fault
	}
	switch e.Code() {
	case codes.SQLITE_CONSTRAINT_UNIQUE, codes.SQLITE_CONSTRAINT_PRIMARYKEY:
		return sqlstore.Duplicate
	}
	switch e.Code() & 0xff {
	case codes.SQLITE_BUSY, codes.SQLITE_LOCKED, codes.SQLITE_INTERRUPT, codes.SQLITE_FULL:
		return sqlstore.Unavailable
	}
	return sqlstore.Fault
}
