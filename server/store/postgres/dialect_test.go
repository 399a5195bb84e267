package postgres

import (
	"database/sql"
	"errors"
	"testing"

	"github.com/authsec-ai/icp/e2e/stage/pg"
	"github.com/authsec-ai/icp/server/store/internal/sqlstore"
	"github.com/authsec-ai/icp/server/store/storetest"
)

// TestAsk asks for the rows of every tenant on one connection: it gets those of
// its scope, and the next one on that connection gets none of them.
func TestAsk(t *testing.T) {
	dsn := pg.Shared(t).NewDatabase(t)
	s, err := Open(t.Context(), dsn.DSN, Options{MigrateDSN: dsn.OwnerDSN})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closed(t, s) })
	for _, tenant := range []string{"a", "b"} {
		storetest.Fill(t, s, tenant)
	}
	db, err := sql.Open("pgx", dsn.DSN)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closed(t, db) })
	db.SetMaxOpenConns(1)
	const everyone = `SELECT id FROM tenants ORDER BY id`
	for _, c := range []struct {
		scope sqlstore.Scope
		want  string
	}{
		{sqlstore.Scope{Tenant: "a"}, "a"},
		{sqlstore.Scope{Across: true}, "ab"},
		{sqlstore.Scope{Tenant: "b"}, "b"},
		{sqlstore.Scope{Tenant: "c"}, ""},
	} {
		var got string
		err := dialect{}.Ask(t.Context(), db, c.scope, everyone, nil, func(row sqlstore.Row) error {
			var id string
			err := row.Scan(&id)
			got += id
			return err
		})
		if err != nil || got != c.want {
			t.Errorf("%+v sees %q, error %v; want %q", c.scope, got, err, c.want)
		}
		var left int
		if err := db.QueryRowContext(t.Context(), `SELECT count(*) FROM tenants`).Scan(&left); err != nil || left != 0 {
			t.Errorf("after %+v the connection sees %d tenants, error %v; want none", c.scope, left, err)
		}
	}
	stop := errors.New("enough")
	err = dialect{}.Ask(t.Context(), db, sqlstore.Scope{Across: true}, everyone, nil, func(sqlstore.Row) error { return stop })
	if !errors.Is(err, stop) {
		t.Errorf("error %v; want the one of each", err)
	}
	err = dialect{}.Ask(t.Context(), db, sqlstore.Scope{Tenant: "a"}, `SELECT 1/0`, nil, func(sqlstore.Row) error { return nil })
	if err == nil {
		t.Error("a query that fails gives no error")
	}
}

func closed(t *testing.T, c interface{ Close() error }) {
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}
