package sqlite

import (
	"database/sql"
	"fmt"
	"path/filepath"
	"testing"
)

func testDB(t *testing.T) *sql.DB {
	t.Helper()
	db, err := openDB(filepath.Join(t.TempDir(), "test.db"), beginWriting)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	db.SetMaxOpenConns(1)
	run(t, db, "CREATE TABLE numbers (n INTEGER UNIQUE)")
	return db
}

func run(t *testing.T, db *sql.DB, query string, args ...any) {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), query, args...); err != nil {
		t.Fatal(err)
	}
}

// kept counts the statements of the one connection.
func kept(t *testing.T, db *sql.DB) (n int) {
	t.Helper()
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	err = conn.Raw(func(c any) error {
		n = len(c.(*preparingConn).kept)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestStatementIsPreparedOnce(t *testing.T) {
	db := testDB(t)
	before := kept(t, db)
	for i := range 5 {
		run(t, db, "INSERT INTO numbers VALUES (?1)", i)
	}
	if got := kept(t, db); got != before+1 {
		t.Errorf("%d statements kept for one", got-before)
	}
	var sum int
	if err := db.QueryRowContext(t.Context(), "SELECT sum(n) FROM numbers").Scan(&sum); err != nil || sum != 10 {
		t.Errorf("sum %d, error %v; want 10: each run has its own arguments", sum, err)
	}
}

// TestStatementInStatement runs a query while its own rows are being read.
func TestStatementInStatement(t *testing.T) {
	db := testDB(t)
	run(t, db, "INSERT INTO numbers VALUES (1), (2), (3)")
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	const query = "SELECT n FROM numbers WHERE n >= ?1 ORDER BY n"
	outer, err := tx.QueryContext(t.Context(), query, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer outer.Close()
	for want := 1; want <= 3; want++ {
		var n, inner int
		if !outer.Next() || outer.Scan(&n) != nil || n != want {
			t.Fatalf("row %d of the outer query is %d, error %v", want, n, outer.Err())
		}
		if err := tx.QueryRowContext(t.Context(), query, 3).Scan(&inner); err != nil || inner != 3 {
			t.Fatalf("inner query gives %d, error %v", inner, err)
		}
	}
	if outer.Next() || outer.Err() != nil {
		t.Errorf("more rows, or error %v", outer.Err())
	}
}

// TestStatementAfterFailure runs a statement again that a constraint refused,
// and one whose table has changed since.
func TestStatementAfterFailure(t *testing.T) {
	db := testDB(t)
	const insert = "INSERT INTO numbers VALUES (?1)"
	run(t, db, insert, 1)
	if _, err := db.ExecContext(t.Context(), insert, 1); err == nil {
		t.Fatal("a duplicate was accepted")
	}
	run(t, db, insert, 2)
	run(t, db, "ALTER TABLE numbers RENAME TO digits")
	if _, err := db.ExecContext(t.Context(), insert, 3); err == nil {
		t.Fatal("a statement found a table that is gone")
	}
	run(t, db, "ALTER TABLE digits RENAME TO numbers")
	run(t, db, insert, 3)
}

func TestStatementsAreBounded(t *testing.T) {
	db := testDB(t)
	for i := range maxStatements + 10 {
		var n int
		if err := db.QueryRowContext(t.Context(), fmt.Sprintf("SELECT %d", i)).Scan(&n); err != nil || n != i {
			t.Fatalf("SELECT %d gives %d, error %v", i, n, err)
		}
	}
	if got := kept(t, db); got != maxStatements {
		t.Errorf("%d statements kept; the limit is %d", got, maxStatements)
	}
}

// TestTransactions has one that is committed, one that is undone and one whose
// commit a constraint refuses; each leaves the connection free for the next.
func TestTransactions(t *testing.T) {
	db := testDB(t)
	run(t, db, "PRAGMA foreign_keys = 1")
	run(t, db, "CREATE TABLE doubles (n INTEGER REFERENCES numbers (n) DEFERRABLE INITIALLY DEFERRED)")
	for _, c := range []struct {
		insert string
		end    func(*sql.Tx) error
		fails  bool
	}{
		{"INSERT INTO numbers VALUES (1)", (*sql.Tx).Commit, false},
		{"INSERT INTO numbers VALUES (2)", (*sql.Tx).Rollback, false},
		{"INSERT INTO doubles VALUES (3)", (*sql.Tx).Commit, true},
		{"INSERT INTO doubles VALUES (1)", (*sql.Tx).Commit, false},
	} {
		tx, err := db.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatalf("begin for %s: %v", c.insert, err)
		}
		if _, err := tx.ExecContext(t.Context(), c.insert); err != nil {
			t.Fatal(err)
		}
		if err := c.end(tx); (err != nil) != c.fails {
			t.Errorf("end after %s: error %v", c.insert, err)
		}
	}
	var numbers, doubles int
	if err := db.QueryRowContext(t.Context(), "SELECT (SELECT sum(n) FROM numbers), (SELECT sum(n) FROM doubles)").Scan(&numbers, &doubles); err != nil {
		t.Fatal(err)
	}
	if numbers != 1 || doubles != 1 {
		t.Errorf("sums %d and %d; want 1 and 1", numbers, doubles)
	}
	if _, err := db.BeginTx(t.Context(), &sql.TxOptions{ReadOnly: true}); err == nil {
		t.Error("a transaction took an option that it would not keep")
	}
}
