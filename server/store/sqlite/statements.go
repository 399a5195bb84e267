package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"

	sqlite "modernc.org/sqlite"
)

// maxStatements bounds the statements that one connection keeps. The store has
// well under a hundred different ones; more would mean that values have got
// into their text.
const maxStatements = 256

// The ways to begin a transaction: with the lock that writing needs, or without.
const (
	beginWriting = "BEGIN IMMEDIATE"
	beginReading = "BEGIN DEFERRED"
)

// openDB gives a database whose connections prepare each statement once, those
// that begin and end transactions too: for the small statements of the store,
// parsing costs more than running.
func openDB(dataSource, begin string) (*sql.DB, error) {
	connector, err := sqlite.NewConnector(dataSource)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(preparing{connector, begin}), nil
}

type preparing struct {
	driver.Connector
	begin string
}

// Connect opens one connection.
func (p preparing) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := p.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	native, ok := conn.(nativeConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("the driver's %T lacks what the store needs of a connection", conn), conn.Close())
	}
	return &preparingConn{nativeConn: native, begin: p.begin, kept: map[string]*statement{}}, nil
}

// nativeConn is what database/sql uses of a connection of the driver.
type nativeConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.Pinger
	driver.SessionResetter
	driver.Validator
}

// preparingConn keeps the statements that were run on a connection. database/sql
// lets one goroutine at a time use it.
type preparingConn struct {
	nativeConn
	begin string
	kept  map[string]*statement // by text
}

// statement is a prepared statement. While rows of it are read it can't be run
// again.
type statement struct {
	driver.StmtExecContext
	driver.StmtQueryContext
	stmt driver.Stmt
	busy bool
}

// BeginTx begins a transaction, the one way this connection does.
func (c *preparingConn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	if opts != (driver.TxOptions{}) {
		return nil, errors.New("transactions of SQLite have no options")
	}
	if _, err := c.ExecContext(ctx, c.begin, nil); err != nil {
		return nil, err
	}
	return transaction{c}, nil
}

type transaction struct{ conn *preparingConn }

// Commit leaves no transaction open, also if it fails.
func (t transaction) Commit() error {
	_, err := t.conn.ExecContext(context.Background(), "COMMIT", nil)
	if err != nil {
		_ = t.Rollback() // SQLite may have done it already
	}
	return err
}

// Rollback undoes the transaction.
func (t transaction) Rollback() error {
	_, err := t.conn.ExecContext(context.Background(), "ROLLBACK", nil)
	return err
}

// ExecContext runs a statement that gives no rows.
func (c *preparingConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	s, err := c.statement(ctx, query)
	if err != nil {
		return nil, err
	}
	if s == nil {
		return c.nativeConn.ExecContext(ctx, query, args)
	}
	return s.ExecContext(context.WithoutCancel(ctx), args)
}

// QueryContext runs a statement that gives rows.
func (c *preparingConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	s, err := c.statement(ctx, query)
	if err != nil {
		return nil, err
	}
	if s == nil {
		return c.nativeConn.QueryContext(ctx, query, args)
	}
	found, err := s.QueryContext(context.WithoutCancel(ctx), args)
	if err != nil {
		return nil, err
	}
	s.busy = true
	return rows{found, s}, nil
}

// statement gives the prepared form of query, or nil if it must be run without.
// A statement that has begun runs to its end, or its first row: to watch ctx the
// driver starts a goroutine, which costs as much as a small statement. database/sql
// sees the end of ctx between two statements and between two rows.
func (c *preparingConn) statement(ctx context.Context, query string) (*statement, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s, ok := c.kept[query]
	switch {
	case ok && s.busy, !ok && len(c.kept) >= maxStatements:
		return nil, nil
	case ok:
		return s, nil
	}
	stmt, err := c.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	exec, canExec := stmt.(driver.StmtExecContext)
	read, canRead := stmt.(driver.StmtQueryContext)
	if !canExec || !canRead {
		return nil, stmt.Close()
	}
	s = &statement{StmtExecContext: exec, StmtQueryContext: read, stmt: stmt}
	c.kept[query] = s
	return s, nil
}

// Close closes the connection and its statements.
func (c *preparingConn) Close() error {
	var errs []error
	for _, s := range c.kept {
		errs = append(errs, s.stmt.Close())
	}
	c.kept = nil
	return errors.Join(errors.Join(errs...), c.nativeConn.Close())
}

// rows free their statement when they are closed.
type rows struct {
	driver.Rows
	of *statement
}

// Close ends the reading.
func (r rows) Close() error {
	r.of.busy = false
	return r.Rows.Close()
}
