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
