package pg_test

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/e2e/stage/pg"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pg.Main(m)) }

func TestProve15(t *testing.T) { prove(t, "15.", pg.Prove15) }

func TestProve18(t *testing.T) { prove(t, "18.", pg.Prove18) }

func TestProveStandby(t *testing.T) { prove(t, "15.", pg.ProveStandby) }

func prove(t *testing.T, version string, prove func(stage.T) stage.Proof) {
	t.Helper()
	proof := prove(t)
	t.Logf("%+v", proof)
	if !strings.HasPrefix(proof.Version, version) {
		t.Errorf("version %q; want %s", proof.Version, version)
	}
}

// TestRestart looks for a row after a server was stopped, and after it was killed.
func TestRestart(t *testing.T) {
	s := pg.Start(t, pg.Options{Durable: true, TCP: true, Settings: map[string]string{"max_connections": "17"}})
	db := s.NewDatabase(t)
	execute(t, db.OwnerDSN, "CREATE TABLE kept AS SELECT 'before' AS said; GRANT SELECT ON kept TO icp")
	for _, c := range []struct {
		name string
		end  func()
	}{{"stopped", func() { s.Stop(t) }}, {"killed", s.Kill}} {
		t.Run(c.name, func(t *testing.T) {
			open := pg.Connect(t, db.DSN)
			c.end()
			if err := open.Ping(t.Context()); err == nil {
				t.Fatal("it still answers")
			}
		})
		s.Start(t) // for as long as the whole test
		if got := ask(t, db.TCPDSN, "SELECT said || current_setting('max_connections') FROM kept"); got != "before17" {
			t.Fatalf("%s and started again, it says %q", c.name, got)
		}
	}
}

func TestUnknownVersion(t *testing.T) {
	err := stage.Run(t.Context(), func(s *stage.Session) { pg.Start(s, pg.Options{Version: "9"}) })
	if want := `there is no PostgreSQL "9": set ICP_TEST_POSTGRES_VERSION to 15 or 18`; err == nil || err.Error() != want {
		t.Fatalf("error %v; want %s", err, want)
	}
}

func execute(t *testing.T, dsn, statement string) {
	t.Helper()
	conn := connect(t, dsn)
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
}

// ask runs a query of one value.
func ask(t *testing.T, dsn, query string) (value string) {
	t.Helper()
	conn := connect(t, dsn)
	defer conn.Close(t.Context())
	if err := conn.QueryRow(t.Context(), query).Scan(&value); err != nil {
		t.Fatal(err)
	}
	return value
}

// connect is pg.Connect for those who disconnect before the test ends.
func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}
