package pg_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/e2e/stage/pg"
)

// TestPair fails over to a standby that follows at its own pace.
func TestPair(t *testing.T) {
	p := pg.StartPair(t, pg.PairOptions{Options: pg.Options{Version: pg.V18, TCP: true}})
	db := p.NewDatabase(t)
	execute(t, db.OwnerDSN, "CREATE TABLE kept AS SELECT 'before' AS said; GRANT SELECT ON kept TO icp")
	p.CatchUp(t)
	const read = "SELECT said || pg_is_in_recovery() FROM kept"
	for dsn, want := range map[string]string{db.DSN: "beforefalse", db.TCPDSN: "beforefalse", p.Standby.Database(db.Name).DSN: "beforetrue"} {
		if got := ask(t, dsn, read); got != want {
			t.Errorf("before, %s says %s; want %s", dsn, got, want)
		}
	}
	p.Primary.Kill()
	if _, err := pgx.Connect(t.Context(), db.DSN); err == nil || !strings.Contains(err.Error(), "read only connection") {
		t.Errorf("with the standby alone: error %v; want a refusal of what only reads", err)
	}
	p.Fail(t)
	for _, dsn := range []string{db.DSN, db.TCPDSN} {
		if got := ask(t, dsn, read); got != "beforefalse" {
			t.Errorf("after, %s says %s", dsn, got)
		}
	}
	execute(t, p.NewDatabase(t).OwnerDSN, "CREATE TABLE after ()")
}

// TestSynchronous takes the standby away: a commit waits until it is back.
func TestSynchronous(t *testing.T) {
	p := pg.StartPair(t, pg.PairOptions{Synchronous: true})
	db := p.NewDatabase(t)
	writer, watching := pg.Connect(t, db.OwnerDSN), pg.Connect(t, db.SuperDSN)
	p.Standby.Kill()
	done := make(chan error, 1)
	go func() {
		_, err := writer.Exec(t.Context(), "CREATE TABLE waits ()")
		done <- err
	}()
	stage.Eventually(t, time.Minute, func() error {
		var n int
		err := watching.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'").Scan(&n)
		if err == nil && n == 0 {
			err = errors.New("the commit does not wait for the standby")
		}
		return err
	})
	select {
	case err := <-done:
		t.Fatalf("answered without the standby: error %v", err)
	default:
	}
	p.Standby.Start(t)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
