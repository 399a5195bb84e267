package sqlstore_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
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
	"github.com/authsec-ai/icp/server/store/internal/sqlstore"
	"github.com/authsec-ai/icp/server/store/postgres"
	"github.com/authsec-ai/icp/server/store/sqlite"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pg.Main(m)) }

const tenant = "a"

func openPostgres(t *testing.T, db pg.Database) *sqlstore.DB {
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
	db := pg.Shared(t).NewDatabase(t)
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
func pausedWriter(t *testing.T, db pg.Database, a, b, reader *sqlstore.DB, name string) []int64 {
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
func settled(t *testing.T, db pg.Database, done chan error) {
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
	bothStores(t, func(t *testing.T, s *sqlstore.DB) {
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

// bothStores runs a test on a new SQLite and a new PostgreSQL database that has the tenant.
func bothStores(t *testing.T, test func(t *testing.T, s *sqlstore.DB)) {
	for name, open := range map[string]func(t *testing.T) *sqlstore.DB{
		"sqlite":   openSQLite,
		"postgres": func(t *testing.T) *sqlstore.DB { return openPostgres(t, pg.Shared(t).NewDatabase(t)) },
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			addTenant(t, s)
			test(t, s)
		})
	}
}

// together holds one mutation until all the others queue behind it, so that
// they share the next transaction. It gives their answers and the number of
// transactions, the held one not counted.
func together(t *testing.T, s *sqlstore.DB, others ...func() error) (answers []error, transactions int) {
	t.Helper()
	started, resume := make(chan struct{}, 100), make(chan struct{})
	s.BeforeCommit(func() error {
		transactions++
		started <- struct{}{}
		<-resume
		return nil
	})
	held := make(chan error, 1)
	go func() { held <- create(t, s, "held") }()
	<-started
	results := make([]chan error, len(others))
	for i, other := range others {
		results[i] = make(chan error, 1)
		go func() { results[i] <- other() }()
		stage.Eventually(t, 20*time.Second, func() error { // in this order
			if n := s.Queued(); n != i+1 {
				return fmt.Errorf("%d queued", n)
			}
			return nil
		})
	}
	close(resume)
	if err := <-held; err != nil {
		t.Fatal(err)
	}
	for _, result := range results {
		answers = append(answers, <-result)
	}
	return answers, transactions - 1
}

func codes(errs []error) string {
	var out []string
	for _, err := range errs {
		out = append(out, string(identity.CodeOf(err)))
	}
	return strings.Join(out, ",")
}

// TestSharedTransaction refuses some mutations of a shared transaction: the
// others are done, and numbered without a gap.
func TestSharedTransaction(t *testing.T) {
	bothStores(t, func(t *testing.T, s *sqlstore.DB) {
		entry := func(name string) func() error { return func() error { return create(t, s, name) } }
		answers, transactions := together(t, s, entry("e1"), entry("e2"), entry("e1"), entry("held"), entry("e3"))
		if got := codes(answers); got != ",,conflict,conflict," || transactions != 1 {
			t.Fatalf("answers %q in %d transactions", got, transactions)
		}
		if got := fmt.Sprint(revisions(t, s)); got != "[1 1 2 3 4 5]" {
			t.Fatalf("revisions %s; want one for each entry and no gap", got)
		}
	})
}

// TestSharedUpdate has two mutations of one transaction update an entry from
// the same revision: only the first may.
func TestSharedUpdate(t *testing.T) {
	bothStores(t, func(t *testing.T, s *sqlstore.DB) {
		if err := create(t, s, "e1"); err != nil {
			t.Fatal(err)
		}
		e, err := s.Entry(t.Context(), tenant, "e1")
		if err != nil {
			t.Fatal(err)
		}
		update := func(ttl time.Duration) func() error {
			return func() error {
				mine := e
				mine.TTL = identity.Duration(ttl)
				_, err := s.UpdateEntry(t.Context(), mine, e.Revision, time.Now(), audit.Event{})
				return err
			}
		}
		answers, transactions := together(t, s, update(time.Second), update(time.Minute))
		if got := codes(answers); got != ",conflict" || transactions != 1 {
			t.Fatalf("answers %q in %d transactions", got, transactions)
		}
		if e, err = s.Entry(t.Context(), tenant, "e1"); err != nil || e.TTL != identity.Duration(time.Second) || e.Revision != 4 {
			t.Fatalf("entry %+v, error %v; want the first update, at revision 4", e, err)
		}
	})
}

// TestBrokenNeighbour has a mutation break a shared transaction, as PostgreSQL
// does on a NUL in text: the others are done all the same.
func TestBrokenNeighbour(t *testing.T) {
	s := openPostgres(t, pg.Shared(t).NewDatabase(t))
	addTenant(t, s)
	answers, _ := together(t, s,
		func() error { return create(t, s, "e1") },
		func() error {
			return s.CreateAPIToken(t.Context(), store.APIToken{ID: "k", Tenant: tenant, Role: store.Viewer, Name: "\x00", Hash: []byte("h")}, audit.Event{})
		},
		func() error { return create(t, s, "e2") })
	if got := codes(answers); got != ",invalid," {
		t.Fatalf("answers %q", got)
	}
	if got := fmt.Sprint(revisions(t, s)); got != "[1 1 2 3 4]" {
		t.Fatalf("revisions %s; want no gap", got)
	}
}

// TestGiveUp has a caller leave the queue: its mutation is not done.
func TestGiveUp(t *testing.T) {
	bothStores(t, func(t *testing.T, s *sqlstore.DB) {
		ctx, cancel := context.WithCancel(t.Context())
		left := make(chan struct{})
		answers, _ := together(t, s,
			func() error {
				defer close(left)
				return s.UpdateSettings(ctx, tenant, store.Settings{AnyNode: true}, audit.Event{})
			},
			func() error {
				cancel()
				<-left
				return create(t, s, "e1")
			})
		if got := codes(answers); got != "unavailable," {
			t.Fatalf("answers %q", got)
		}
		tn, err := s.Tenant(t.Context(), tenant)
		if err != nil || tn.Settings.AnyNode || tn.Cursor.Revision != 3 {
			t.Fatalf("tenant %+v, error %v; want no new settings, and revision 3", tn, err)
		}
	})
}

// TestDeleteDuringSign pauses one of the two just before its commit and lets
// the other come: the serial is revoked, or the intent is Denied.
func TestDeleteDuringSign(t *testing.T) {
	db := pg.Shared(t).NewDatabase(t)
	signer, admin := openPostgres(t, db), openPostgres(t, db)
	addTenant(t, signer)
	now := time.Now()
	node := identity.Node{ID: spiffeid.RequireFromString("spiffe://a.example/agent/one"), Tenant: tenant, Serial: "01",
		SPKI: []byte("key"), ExpiresAt: now.Add(time.Hour)}
	if err := signer.AttestNode(t.Context(), node, nil, now, audit.Event{}); err != nil {
		t.Fatal(err)
	}
	record := func(name string) func() error {
		if err := create(t, signer, name); err != nil {
			t.Fatal(err)
		}
		e, err := signer.Entry(t.Context(), tenant, name)
		if err != nil {
			t.Fatal(err)
		}
		return func() error {
			_, errs, err := signer.RecordIntents(t.Context(), tenant, node.ID.String(), now, []store.Intent{{Kind: identity.X509,
				Serial: name, EntryID: name, EntryRevision: e.Revision, SPIFFEID: e.SPIFFEID, ExpiresAt: now.Add(time.Hour)}})
			return errors.Join(append(errs, err)...)
		}
	}
	remove := func(name string) func() error {
		return func() error { return admin.DeleteEntry(t.Context(), tenant, name, now, audit.Event{}) }
	}
	ban := func() error { return admin.BanNode(t.Context(), tenant, node.ID.String(), now, audit.Event{}) }
	for _, c := range []struct {
		name, serial string
		first        *sqlstore.DB
		do, then     func() error
		denied       bool
	}{
		{name: "sign then delete", serial: "e1", first: signer, do: record("e1"), then: remove("e1")},
		{name: "delete then sign", serial: "e2", first: admin, do: remove("e2"), then: record("e2"), denied: true},
		{name: "sign then ban", serial: "e3", first: signer, do: record("e3"), then: ban},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := overtaken(t, db, c.first, c.do, c.then)
			revoked, err2 := signer.Revoked(t.Context(), tenant, c.serial)
			if err2 != nil {
				t.Fatal(err2)
			}
			if denied := identity.CodeOf(err) == identity.Denied; denied != c.denied || revoked == denied {
				t.Fatalf("denied %v (%v), revoked %v; want denied %v, else revoked", denied, err, revoked, c.denied)
			}
		})
	}
}

// overtaken pauses do before its commit while then runs, and gives then's error.
func overtaken(t *testing.T, db pg.Database, first *sqlstore.DB, do, then func() error) error {
	t.Helper()
	paused, resume := make(chan struct{}), make(chan struct{})
	first.BeforeCommit(func() error {
		close(paused)
		<-resume
		return nil
	})
	did, done := make(chan error, 1), make(chan error, 1)
	go func() { did <- do() }()
	<-paused
	first.BeforeCommit(func() error { return nil })
	go func() { done <- then() }()
	settled(t, db, done)
	close(resume)
	if err := <-did; err != nil {
		t.Fatal(err)
	}
	return <-done
}
