package postgres_test

import (
	"testing"
	"time"

	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/server/store"
	"github.com/authsec-ai/icp/server/store/postgres"
	"github.com/authsec-ai/icp/server/store/storetest"
)

// fresh opens databases that never poll, as a role that does not own the tables.
func fresh(tb testing.TB) storetest.Opener {
	db := stage.Postgres(tb).NewDatabase(tb)
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
