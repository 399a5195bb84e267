package pg_test

import (
	"errors"
	"testing"
	"time"

	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/e2e/stage/lefttest"
	"github.com/authsec-ai/icp/e2e/stage/pg"
)

func TestShared(t *testing.T) {
	var folders []string
	for _, name := range []string{"first", "second"} { // the server outlives a test
		t.Run(name, func(t *testing.T) {
			db := pg.Shared(t).NewDatabase(t)
			conn := pg.Connect(t, db.OwnerDSN)
			if _, err := conn.Exec(t.Context(), "CREATE TABLE own ()"); err != nil { // nobody has made it yet
				t.Fatal(err)
			}
			folders = append(folders, conn.Config().Host)
		})
	}
	if folders[0] != folders[1] {
		t.Fatalf("servers in %q; want one", folders)
	}
}

// TestPostgresEndsWithBinary kills a test binary whose shared PostgreSQL is busy
// with what it never ends by itself, and looks whether anything of it stays.
func TestPostgresEndsWithBinary(t *testing.T) {
	lefttest.Killed(t, func(t *testing.T) {
		db := pg.Shared(t).NewDatabase(t)
		busy, watching := pg.Connect(t, db.DSN), pg.Connect(t, db.SuperDSN)
		go func() { _, _ = busy.Exec(t.Context(), "DO 'BEGIN LOOP END LOOP; END'") }()
		stage.Eventually(t, time.Minute, func() error {
			var n int
			err := watching.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'DO%' AND state = 'active'").Scan(&n)
			if err == nil && n == 0 {
				err = errors.New("it is not busy yet")
			}
			return err
		})
	}, "folder /tmp/icp-", ": postgres: icp")
}
