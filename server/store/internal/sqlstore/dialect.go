package sqlstore

import (
	"context"
	"database/sql"
)

// Dialect is what differs between the databases. Statements are written with
// numbered parameters ($1, $2, …) and only in SQL that both understand.
type Dialect interface {
	// Statement gives the database's spelling of a statement.
	Statement(query string) string
	// Enter limits a transaction that has just begun to what scope may see.
	Enter(ctx context.Context, tx *sql.Tx, scope Scope) error
	// Ask runs one query within scope, as a transaction of its own, and calls each
	// for every row. An error of each ends it.
	Ask(ctx context.Context, db *sql.DB, scope Scope, query string, args []any, each func(Row) error) error
	// ReadOptions are those of a transaction that reads one snapshot.
	ReadOptions() *sql.TxOptions
	// WriteOptions are those of a transaction that writes: each statement sees
	// what is committed when it begins or gets the locks it waits for.
	WriteOptions() *sql.TxOptions
	// Lock gives the clause that holds the rows a SELECT found until commit.
	Lock(mode LockMode) string
	// AnyOf gives the condition that column is one of the list in parameter
	// param, and List the argument for it.
	AnyOf(column string, param int) string
	List(values []string) any
	// Contains gives the condition that column holds the text in parameter param.
	Contains(column string, param int) string
	// Records gives a FROM item named r with one row for each object of the
	// JSON array in parameter param.
	Records(param int, columns ...Column) string
	// Classify says what a driver's error means.
	Classify(err error) Failure
}

// Row is one row of an answer.
type Row interface{ Scan(dest ...any) error }

// Scope is what a transaction may see: one tenant, or (Across) every tenant.
type Scope struct {
	Tenant string
	Across bool
}

// LockMode is how a SELECT holds its rows.
type LockMode int

// The lock modes. Shared lets other readers hold the row too; no writer.
const (
	Shared LockMode = iota
	Exclusive
)

// Column is one column of Records. Type is TEXT, BIGINT or BOOLEAN.
type Column struct{ Name, Type string }

// Failure is what a driver's error means to the store.
type Failure int

// The failures.
const (
	Fault       Failure = iota // anything else: a fault of ours, or of the disk
	Unavailable                // no connection, no free connection, or locked
	Lost                       // the transaction lost against another one: run it again
	Duplicate                  // a unique constraint refused a row
	BadText                    // text that the database can't keep
)
