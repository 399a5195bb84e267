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

// openDB gives a database whose connections prepare each statement once: for
// the small statements of the store, parsing costs more than running.
func openDB(dataSource string) (*sql.DB, error) {
	connector, err := sqlite.NewConnector(dataSource)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(preparing{connector}), nil
}

type preparing struct{ driver.Connector }

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
	return &preparingConn{nativeConn: native, kept: map[string]*statement{}}, nil
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
	kept map[string]*statement // by text
}

// statement is a prepared statement. While rows of it are read it can't be run
// again.
type statement struct {
	driver.StmtExecContext
	driver.StmtQueryContext
	stmt driver.Stmt
	busy bool
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
	return s.ExecContext(ctx, args)
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
	found, err := s.QueryContext(ctx, args)
	if err != nil {
		return nil, err
	}
	s.busy = true
	return rows{found, s}, nil
}

// statement gives the prepared form of query, or nil if it must be run without.
func (c *preparingConn) statement(ctx context.Context, query string) (*statement, error) {
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
