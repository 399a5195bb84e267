package sqlstore_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"

	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/audit"
	"github.com/authsec-ai/icp/server/store"
	"github.com/authsec-ai/icp/server/store/internal/sqlstore"
	"github.com/authsec-ai/icp/server/store/postgres"
	"github.com/authsec-ai/icp/server/store/sqlite"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const tenant = "a"

func openPostgres(t *testing.T, db stage.Database) *sqlstore.DB {
	t.Helper()
	s, err := postgres.Open(t.Context(), db.DSN, postgres.Options{MigrateDSN: db.OwnerDSN, PollInterval: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	return closeLater(t, s)
}

func openSQLite(t *testing.T) *sqlstore.DB {
	t.Helper()
	s, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "icp.db"), sqlite.Options{PollInterval: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	return closeLater(t, s)
}

func closeLater(t *testing.T, s store.Store) *sqlstore.DB {
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s.(*sqlstore.DB)
}

func addTenant(t *testing.T, s store.Store) {
	t.Helper()
	if err := s.CreateTenant(t.Context(), store.Tenant{ID: tenant, TrustDomain: "a.example"}, nil, audit.Event{}); err != nil {
		t.Fatal(err)
	}
}

func create(t *testing.T, s store.Store, name string) error {
	_, err := s.CreateEntry(t.Context(), identity.Entry{ID: name, Tenant: tenant,
		Spec: identity.Spec{SPIFFEID: spiffeid.RequireFromString("spiffe://a.example/" + name)}}, audit.Event{})
	return err
}

// TestPausedWriter pauses a writer just before its commit, lets another one
// write, and reads all the while: no revision may appear below one that was
// seen. With revisions from a sequence it must see exactly that.
func TestPausedWriter(t *testing.T) {
	db := stage.Postgres(t).NewDatabase(t)
	a, b, reader := openPostgres(t, db), openPostgres(t, db), openPostgres(t, db)
	addTenant(t, reader)
	t.Run("counter", func(t *testing.T) {
		if late := pausedWriter(t, db, a, b, reader, "counter"); len(late) != 0 {
			t.Fatalf("revisions %v appeared late", late)
		}
	})
	t.Run("sequence", func(t *testing.T) {
		execute(t, db.OwnerDSN, "CREATE SEQUENCE plain START 1000; GRANT USAGE ON plain TO PUBLIC")
		a.NumberBySequence("plain")
		b.NumberBySequence("plain")
		if late := pausedWriter(t, db, a, b, reader, "sequence"); len(late) == 0 {
			t.Fatal("this test does not see a revision that appears late")
		}
	})
}

// pausedWriter gives the revisions that appeared below one already seen.
func pausedWriter(t *testing.T, db stage.Database, a, b, reader *sqlstore.DB, name string) []int64 {
	paused, resume := make(chan struct{}), make(chan struct{})
	a.BeforeCommit(func() error {
		close(paused)
		<-resume
		return nil
	})
	aDone, bDone := make(chan error, 1), make(chan error, 1)
	go func() { aDone <- create(t, a, name+"-a") }()
	<-paused
	go func() { bDone <- create(t, b, name+"-b") }()
	settled(t, db, bDone)
	early := revisions(t, reader)
	close(resume)
	for _, done := range []chan error{aDone, bDone} {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	return slices.DeleteFunc(revisions(t, reader), func(r int64) bool {
		return slices.Contains(early, r) || len(early) == 0 || r > slices.Max(early)
	})
}

// settled waits until writer b has committed, or waits for a lock of writer a.
func settled(t *testing.T, db stage.Database, done chan error) {
	stage.Eventually(t, 20*time.Second, func() error {
		if len(done) > 0 || query(t, db.SuperDSN, `SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event_type = 'Lock'`) > 0 {
			return nil
		}
		return errors.New("the second writer neither commits nor waits")
	})
}

func revisions(t *testing.T, s store.Store) []int64 {
	t.Helper()
	changes, err := s.Changes(t.Context(), tenant, 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	var out []int64
	for _, c := range changes {
		out = append(out, c.Revision)
	}
	return out
}

func execute(t *testing.T, dsn, statement string) {
	t.Helper()
	conn := connect(t, dsn)
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
}

func query(t *testing.T, dsn, statement string) (n int) {
	t.Helper()
	conn := connect(t, dsn)
	defer conn.Close(t.Context())
	if err := conn.QueryRow(t.Context(), statement).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// TestFailedCommit fails transactions at their end: nothing of them stays, the
// callers hear of it, and the next mutation gets the next revision.
func TestFailedCommit(t *testing.T) {
	for name, s := range map[string]*sqlstore.DB{
		"sqlite":   openSQLite(t),
		"postgres": openPostgres(t, stage.Postgres(t).NewDatabase(t)),
	} {
		t.Run(name, func(t *testing.T) {
			addTenant(t, s)
			node := identity.Node{ID: spiffeid.RequireFromString("spiffe://a.example/agent/one"), Tenant: tenant, Serial: "01",
				SPKI: []byte("key"), ExpiresAt: time.Now().Add(time.Hour)}
			token := store.JoinToken{ID: "t1", Tenant: tenant, Hash: []byte("hash"), ExpiresAt: node.ExpiresAt}
			if err := s.CreateJoinToken(t.Context(), token, audit.Event{}); err != nil {
				t.Fatal(err)
			}
			s.BeforeCommit(func() error { return errors.New("the disk is full") })
			if code := identity.CodeOf(create(t, s, "e1")); code != identity.Internal {
				t.Fatalf("code %q of a commit that failed; want internal", code)
			}
			if s.AttestNode(t.Context(), node, token.Hash, time.Now(), audit.Event{}) == nil {
				t.Fatal("attested although the commit failed")
			}
			s.BeforeCommit(func() error { return nil })
			t.Run("T-04/refused", func(t *testing.T) {
				if _, err := s.JoinTokenByHash(t.Context(), token.Hash); err != nil {
					t.Fatalf("the token is burnt: %v", err)
				}
				if _, err := s.Node(t.Context(), tenant, node.ID.String()); identity.CodeOf(err) != identity.NotFound {
					t.Fatalf("a node stays: %v", err)
				}
			})
			t.Run("T-04/twin", func(t *testing.T) {
				if err := s.AttestNode(t.Context(), node, token.Hash, time.Now(), audit.Event{}); err != nil {
					t.Fatal(err)
				}
			})
			if err := create(t, s, "e1"); err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprint(revisions(t, s)); got != "[1 1 2 3]" {
				t.Fatalf("revisions %s; want no gap", got)
			}
		})
	}
}

// TestSharedTransaction holds one mutation while others queue: those that are
// refused or break the transaction do no harm to the rest.
func TestSharedTransaction(t *testing.T) {
	for name, s := range map[string]*sqlstore.DB{
		"sqlite":   openSQLite(t),
		"postgres": openPostgres(t, stage.Postgres(t).NewDatabase(t)),
	} {
		t.Run(name, func(t *testing.T) {
			addTenant(t, s)
			started, resume := make(chan struct{}, 100), make(chan struct{})
			var commits int
			s.BeforeCommit(func() error {
				commits++
				started <- struct{}{}
				<-resume
				return nil
			})
			answers := make(chan error, 100)
			go func() { answers <- create(t, s, "first") }()
			<-started
			names := []string{"e1", "e2", "e1", "first", "e3"}
			for _, name := range names {
				go func() { answers <- create(t, s, name) }()
			}
			stage.Eventually(t, 20*time.Second, func() error {
				if n := s.Queued(); n != len(names) {
					return fmt.Errorf("%d queued", n)
				}
				return nil
			})
			close(resume)
			var refused int
			for range len(names) + 1 {
				switch err := <-answers; identity.CodeOf(err) {
				case "":
				case identity.Conflict:
					refused++
				default:
					t.Error(err)
				}
			}
			if refused != 2 || commits != 2 {
				t.Fatalf("%d refused in %d transactions; want 2 in 2", refused, commits)
			}
			if got := fmt.Sprint(revisions(t, s)); got != "[1 1 2 3 4 5]" {
				t.Fatalf("revisions %s; want one for each entry and no gap", got)
			}
		})
	}
}

// TestBrokenNeighbour has a mutation break a shared transaction, as PostgreSQL
// does on a NUL in text: the others are done all the same.
func TestBrokenNeighbour(t *testing.T) {
	s := openPostgres(t, stage.Postgres(t).NewDatabase(t))
	addTenant(t, s)
	started, resume := make(chan struct{}, 100), make(chan struct{})
	s.BeforeCommit(func() error {
		started <- struct{}{}
		<-resume
		return nil
	})
	good, bad := make(chan error, 3), make(chan error, 1)
	go func() { good <- create(t, s, "first") }()
	<-started
	go func() { good <- create(t, s, "e1") }()
	go func() {
		bad <- s.CreateAPIToken(t.Context(), store.APIToken{ID: "k", Tenant: tenant, Role: store.Viewer, Name: "\x00", Hash: []byte("h")}, audit.Event{})
	}()
	go func() { good <- create(t, s, "e2") }()
	stage.Eventually(t, 20*time.Second, func() error {
		if n := s.Queued(); n != 3 {
			return fmt.Errorf("%d queued", n)
		}
		return nil
	})
	close(resume)
	for range 3 {
		if err := <-good; err != nil {
			t.Error(err)
		}
	}
	if code := identity.CodeOf(<-bad); code != identity.Invalid {
		t.Errorf("code %q; want invalid", code)
	}
	if got := fmt.Sprint(revisions(t, s)); got != "[1 1 2 3 4]" {
		t.Fatalf("revisions %s; want no gap", got)
	}
}
