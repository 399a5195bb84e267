package postgres

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/authsec-ai/icp/server/store/internal/sqlstore"
)

type dialect struct{}

func (dialect) Statement(query string) string { return query }

// enter sets what the row-level policies compare with, until the transaction ends.
const enter = `SELECT set_config('icp.tenant', $1, true), set_config('icp.across', $2, true)`

func across(scope sqlstore.Scope) string {
	if scope.Across {
		return "on"
	}
	return "off"
}

// Enter says at the begin what the transaction may see.
func (dialect) Enter(ctx context.Context, tx *sql.Tx, scope sqlstore.Scope) error {
	_, err := tx.ExecContext(ctx, enter, scope.Tenant, across(scope))
	return err
}

// Ask sends both statements at once, which PostgreSQL runs as one transaction.
// So there is one way to the database and back instead of four.
func (dialect) Ask(ctx context.Context, db *sql.DB, scope sqlstore.Scope, query string, args []any, each func(sqlstore.Row) error) error {
	conn, err := db.Conn(ctx)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer conn.Close()
	return conn.Raw(func(driverConn any) error {
		var both pgx.Batch
		both.Queue(enter, scope.Tenant, across(scope))
		both.Queue(query, args...).Query(func(rows pgx.Rows) error {
			for rows.Next() {
				if err := each(rows); err != nil {
					return err
				}
			}
			return rows.Err()
		})
		return driverConn.(*stdlib.Conn).Conn().SendBatch(ctx, &both).Close()
	})
}

func (dialect) ReadOptions() *sql.TxOptions {
	return &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}
}

func (dialect) WriteOptions() *sql.TxOptions {
	return &sql.TxOptions{Isolation: sql.LevelReadCommitted}
}

func (dialect) Lock(mode sqlstore.LockMode) string {
	if mode == sqlstore.Exclusive {
		return " FOR UPDATE"
	}
	return " FOR SHARE"
}

func (dialect) AnyOf(column string, param int) string {
	return fmt.Sprintf("%s = ANY($%d)", column, param)
}

func (dialect) List(values []string) any { return values }

func (dialect) Contains(column string, param int) string {
	return fmt.Sprintf("strpos(%s, $%d) > 0", column, param)
}

func (dialect) Records(param int, columns ...sqlstore.Column) string {
	fields := make([]string, 0, len(columns))
	for _, c := range columns {
		fields = append(fields, c.Name+" "+c.Type)
	}
	return fmt.Sprintf("json_to_recordset($%d::json) AS r (%s)", param, strings.Join(fields, ", "))
}

// Classify goes by PostgreSQL's error codes (its manual, appendix A). Where no
// connection was made the codes are those of a server that was not asked
// anything, and may not have caught up: a standby says that a database does not
// exist until it has replayed its creation.
func (dialect) Classify(err error) sqlstore.Failure {
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) {
		return sqlstore.Unavailable
	}
	var e *pgconn.PgError
	if !errors.As(err, &e) {
		return classifyConnection(err)
	}
	switch e.Code {
	case "40001", "40P01": // serialization failure, deadlock
		return sqlstore.Lost
	case "23505": // unique violation
		return sqlstore.Duplicate
	case "22021", "22P05": // character not in the encoding
		return sqlstore.BadText
	case "25006", "55P03": // read-only (a standby), lock not available
		return sqlstore.Unavailable
	}
	switch e.Code[:2] {
	case "08", "53", "57": // connection, resources, operator
		return sqlstore.Unavailable
	}
	return sqlstore.Fault
}

func classifyConnection(err error) sqlstore.Failure {
	var network net.Error
	switch {
	case errors.As(err, &network), pgconn.SafeToRetry(err),
		errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, driver.ErrBadConn), errors.Is(err, sql.ErrConnDone):
		return sqlstore.Unavailable
	}
	return sqlstore.Fault
}
