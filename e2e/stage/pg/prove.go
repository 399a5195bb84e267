package pg

import (
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/authsec-ai/icp/e2e/stage"
)

// Prove15 shows that Debian's PostgreSQL tells roles apart.
func Prove15(t stage.T) stage.Proof {
	t.Helper()
	return prove(t, V15)
}

// Prove18 shows the same of npm's.
func Prove18(t stage.T) stage.Proof {
	t.Helper()
	return prove(t, V18)
}

// prove has an ordinary role try what the superuser may.
func prove(t stage.T, version Version) stage.Proof {
	t.Helper()
	from := time.Now()
	s := Start(t, Options{Version: version})
	ready := time.Since(from)
	db := s.NewDatabase(t)
	ordinary, super := Connect(t, db.DSN), Connect(t, db.SuperDSN)
	var isSuper bool
	if err := ordinary.QueryRow(t.Context(), "SELECT rolsuper FROM pg_roles WHERE rolname = current_user").Scan(&isSuper); err != nil || isSuper {
		t.Fatalf("role %s: superuser %v, error %v; want an ordinary role", user, isSuper, err)
	}
	const statement = "CREATE ROLE another SUPERUSER"
	_, refused := ordinary.Exec(t.Context(), statement)
	if sqlState(refused) != insufficientPrivilege {
		t.Fatalf("role %s: %s: error %v; want SQLSTATE %s", user, statement, refused, insufficientPrivilege)
	}
	if _, err := super.Exec(t.Context(), statement); err != nil {
		t.Fatalf("role %s: %s: %v", superuser, statement, err)
	}
	return stage.Proof{Version: s.Version, Ready: ready, Fact: fmt.Sprintf("%s: refused to %s with SQLSTATE %s, accepted from %s",
		statement, user, sqlState(refused), superuser)}
}

// ProveStandby shows that a standby takes no writes until its primary has died,
// and has then what was committed.
func ProveStandby(t stage.T) stage.Proof {
	t.Helper()
	from := time.Now()
	p := StartPair(t, PairOptions{Options: Options{Version: V15}, Synchronous: true})
	ready := time.Since(from)
	db := p.NewDatabase(t)
	const insert = "INSERT INTO kept DEFAULT VALUES"
	primary := Connect(t, db.OwnerDSN)
	for _, statement := range []string{"CREATE TABLE kept (id serial)", insert} {
		if _, err := primary.Exec(t.Context(), statement); err != nil {
			t.Fatalf("on the primary: %s: %v", statement, err)
		}
	}
	p.CatchUp(t)
	_, refused := Connect(t, p.Standby.Database(db.Name).OwnerDSN).Exec(t.Context(), insert)
	if sqlState(refused) != readOnlyTransaction {
		t.Fatalf("on the standby: %s: error %v; want SQLSTATE %s", insert, refused, readOnlyTransaction)
	}
	from = time.Now()
	p.Fail(t)
	before := insertAfter(t, db, insert)
	return stage.Proof{Version: p.Standby.Version, Ready: ready, Fact: fmt.Sprintf(
		"INSERT: refused by the standby with SQLSTATE %s; %s after the primary's SIGKILL accepted, beside %d row committed before",
		sqlState(refused), time.Since(from).Round(time.Millisecond), before)}
}

// insertAfter writes where the primary's place was taken, and gives the number of
// rows that were there before.
func insertAfter(t stage.T, db Database, insert string) (before int) {
	t.Helper()
	conn := Connect(t, db.OwnerDSN)
	if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM kept").Scan(&before); err != nil || before != 1 {
		t.Fatalf("after the primary's end: %d rows, error %v; want the one that was committed", before, err)
	}
	if _, err := conn.Exec(t.Context(), insert); err != nil {
		t.Fatalf("after the primary's end: %s: %v", insert, err)
	}
	return before
}

// The SQLSTATEs that the proofs look for.
const (
	insufficientPrivilege = "42501"
	readOnlyTransaction   = "25006"
)

// sqlState gives the code of a server's refusal, or "".
func sqlState(err error) string {
	var refusal *pgconn.PgError
	if errors.As(err, &refusal) {
		return refusal.Code
	}
	return ""
}
