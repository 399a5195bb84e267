package postgres_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"

	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/e2e/stage/pg"
	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/audit"
	"github.com/authsec-ai/icp/server/store"
	"github.com/authsec-ai/icp/server/store/postgres"
	"github.com/authsec-ai/icp/server/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pg.Main(m)) }

// fresh opens databases that never poll, as a role that does not own the tables.
func fresh(tb testing.TB) storetest.Opener {
	db := pg.Shared(tb).NewDatabase(tb)
	return func(tb testing.TB) store.Store {
		return open(tb, db.DSN, postgres.Options{MigrateDSN: db.OwnerDSN, PollInterval: time.Hour})
	}
}

func open(tb testing.TB, dsn string, opts postgres.Options) store.Store {
	tb.Helper()
	s, err := postgres.Open(tb.Context(), dsn, opts)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.Close() }) // a test may have closed it already
	return s
}

func TestStore(t *testing.T) { storetest.Run(t, fresh) }

func TestCrash(t *testing.T) {
	storetest.Crash(t, func(tb testing.TB) string {
		db := pg.Shared(tb).NewDatabase(tb)
		open(tb, db.DSN, postgres.Options{MigrateDSN: db.OwnerDSN}).Close()
		return db.DSN
	}, func(tb testing.TB, dsn string) store.Store { return open(tb, dsn, postgres.Options{}) })
}

// TestAnnounce has another server see a change long before it would poll.
func TestAnnounce(t *testing.T) {
	opener := fresh(t)
	a, b := opener(t), opener(t)
	addTenants(t, a, "a")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // polling is an hour away
	defer cancel()
	for i := range 5 {
		before, err := b.Tenant(ctx, "a")
		if err != nil {
			t.Fatal(err)
		}
		woken := make(chan error, 1)
		go func() {
			now, err := b.Wait(ctx, "a", before.Cursor)
			if err == nil && now.Revision != before.Cursor.Revision+1 {
				err = fmt.Errorf("woken at %v after %v", now, before.Cursor)
			}
			woken <- err
		}()
		addEntry(t, a, "a", fmt.Sprintf("e%d", i))
		if err := <-woken; err != nil {
			t.Fatal(err)
		}
	}
}

// TestListenAgain cuts the connection that listens: the server listens anew and
// learns what it missed.
func TestListenAgain(t *testing.T) {
	db := pg.Shared(t).NewDatabase(t)
	opts := postgres.Options{MigrateDSN: db.OwnerDSN, PollInterval: time.Hour}
	a, b := open(t, db.DSN, opts), open(t, db.DSN, opts)
	addTenants(t, a, "a")
	before, err := b.Tenant(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	woken := make(chan error, 1)
	go func() {
		_, err := b.Wait(ctx, "a", before.Cursor)
		woken <- err
	}()
	conn := pg.Connect(t, db.SuperDSN)
	const cut = `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()`
	stage.Eventually(t, 20*time.Second, func() error {
		if n := count(t, conn, cut); n == 0 {
			return fmt.Errorf("nobody listens")
		}
		return nil
	})
	addEntry(t, a, "a", "e1")
	if err := <-woken; err != nil {
		t.Fatal(err)
	}
}

// TestRowLevelSecurity asks the database itself, with statements that name no
// tenant: a transaction sees its own tenant's rows and writes no other's.
func TestRowLevelSecurity(t *testing.T) {
	db := pg.Shared(t).NewDatabase(t)
	s := open(t, db.DSN, postgres.Options{MigrateDSN: db.OwnerDSN})
	for _, tenant := range []string{"a", "b"} {
		storetest.Fill(t, s, tenant)
	}
	super := pg.Connect(t, db.SuperDSN)
	tables := tablesOf(t, super)
	if len(tables) < 14 {
		t.Fatalf("only %d tables: %q", len(tables), tables)
	}
	for _, dsn := range []string{db.DSN, db.OwnerDSN} {
		conn := pg.Connect(t, dsn)
		for _, table := range tables {
			t.Run(conn.Config().User+" "+table, func(t *testing.T) { checkTable(t, conn, super, table) })
		}
	}
}

func checkTable(t *testing.T, conn, super *pgx.Conn, table string) {
	column := "tenant"
	if table == "tenants" {
		column = "id"
	}
	of := func(tenant string) int {
		return count(t, super, fmt.Sprintf("SELECT count(*) FROM %s WHERE %s = '%s'", table, column, tenant))
	}
	if of("a") == 0 || of("b") == 0 {
		t.Fatal("the test has no rows here")
	}
	all := "SELECT count(*) FROM " + table
	if n := count(t, conn, all); n != 0 {
		t.Errorf("without a tenant: %d rows visible", n)
	}
	within(t, conn, "SET LOCAL icp.tenant = 'a'", func() {
		if n := count(t, conn, all); n != of("a") {
			t.Errorf("as tenant a: %d rows visible; it has %d", n, of("a"))
		}
		tag, err := conn.Exec(t.Context(), fmt.Sprintf("DELETE FROM %s WHERE %s = 'b'", table, column))
		if err != nil || tag.RowsAffected() != 0 {
			t.Errorf("as tenant a: deleted %d rows of b, error %v", tag.RowsAffected(), err)
		}
	})
	within(t, conn, "SET LOCAL icp.tenant = 'a'", func() {
		_, err := conn.Exec(t.Context(), fmt.Sprintf("UPDATE %s SET %s = 'b'", table, column))
		if err == nil || !strings.Contains(err.Error(), "row-level security") {
			t.Errorf("as tenant a: moving rows to b: %v; want a refusal by row-level security", err)
		}
	})
	if n := count(t, conn, all); n != 0 {
		t.Errorf("after the transaction: %d rows visible", n)
	}
}

// within runs f in a transaction that begins with a statement, and rolls it back.
func within(t *testing.T, conn *pgx.Conn, first string, f func()) {
	t.Helper()
	for _, statement := range []string{"BEGIN", first} {
		if _, err := conn.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	f()
	if _, err := conn.Exec(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
}

func tablesOf(t *testing.T, conn *pgx.Conn) []string {
	t.Helper()
	rows, err := conn.Query(t.Context(), `SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'icp_schema'`)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return tables
}

func TestOpenFailures(t *testing.T) {
	server := pg.Shared(t)
	newer, damaged, other := server.NewDatabase(t), server.NewDatabase(t), server.NewDatabase(t)
	for _, db := range []pg.Database{newer, damaged} {
		open(t, db.DSN, postgres.Options{MigrateDSN: db.OwnerDSN}).Close()
	}
	execute(t, newer.SuperDSN, "INSERT INTO icp_schema VALUES (99)")
	execute(t, damaged.SuperDSN, "DELETE FROM icp_schema")
	for name, c := range map[string]struct{ dsn, want string }{
		"newer":        {newer.DSN, "it has data version 99 and this program knows versions up to 1: run the newer program"},
		"unknown":      {damaged.DSN, "its table icp_schema has no data version; it is damaged, or not a database of ICP"},
		"no rights":    {other.DSN, "permission denied for schema public"},
		"no server":    {"postgres://icp:hunter2@127.0.0.1:1/icp?connect_timeout=5", "connection refused"},
		"no such name": {strings.Replace(other.DSN, "/t", "/nothing", 1), "does not exist"},
		"not a DSN":    {"postgres://icp:hunter2@host:port", "invalid port"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := postgres.Open(t.Context(), c.dsn, postgres.Options{})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v; want one with %q", err, c.want)
			}
			if strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "hunter2") || !strings.HasPrefix(err.Error(), "open PostgreSQL database: ") {
				t.Fatalf("error %q; want one line without the password", err)
			}
		})
	}
}

// TestRoles warns of a role to whom row-level security does not apply, and only of that.
func TestRoles(t *testing.T) {
	db := pg.Shared(t).NewDatabase(t)
	for _, c := range []struct {
		dsn  string
		want bool
	}{{db.OwnerDSN, false}, {db.SuperDSN, true}} { // the owner first: it makes the tables
		var log strings.Builder
		open(t, c.dsn, postgres.Options{Log: slog.New(slog.NewTextHandler(&log, nil))}).Close()
		if warned := strings.Contains(log.String(), "row-level security does not bind"); warned != c.want {
			t.Errorf("%s: warned %v; want %v", c.dsn, warned, c.want)
		}
	}
}

// TestOpenTogether has several servers migrate an empty database at once.
func TestOpenTogether(t *testing.T) {
	db := pg.Shared(t).NewDatabase(t)
	errs := make(chan error, 5)
	for range cap(errs) {
		go func() {
			s, err := postgres.Open(t.Context(), db.DSN, postgres.Options{MigrateDSN: db.OwnerDSN})
			if err == nil {
				err = s.Close()
			}
			errs <- err
		}()
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func addTenants(t *testing.T, s store.Store, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if err := s.CreateTenant(t.Context(), store.Tenant{ID: id, TrustDomain: id + ".example"}, nil, audit.Event{}); err != nil {
			t.Fatal(err)
		}
	}
}

func addEntry(t *testing.T, s store.Store, tenant, name string) identity.Entry {
	t.Helper()
	e, err := s.CreateEntry(t.Context(), identity.Entry{ID: name, Tenant: tenant, Spec: identity.Spec{
		SPIFFEID: spiffeid.RequireFromString("spiffe://" + tenant + ".example/" + name), Selectors: identity.NewSelectors(identity.Selector{Type: "unix", Value: "uid:1"}),
		ParentID: spiffeid.RequireFromString("spiffe://" + tenant + ".example/agent/one")}}, audit.Event{})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func execute(t *testing.T, dsn, statement string) {
	t.Helper()
	if _, err := pg.Connect(t, dsn).Exec(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
}

func count(t *testing.T, conn *pgx.Conn, query string) (n int) {
	t.Helper()
	if err := conn.QueryRow(t.Context(), query).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func BenchmarkStore(b *testing.B) { storetest.Bench(b, fresh) }
