package pg_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/authsec-ai/icp/e2e/stage"
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

// TestPostgresEndsWithBinary kills a test binary whose shared PostgreSQL is at
// work, and looks whether anything of it stays.
func TestPostgresEndsWithBinary(t *testing.T) {
	const role = "ICP_TEST_HOLD_POSTGRES"
	if ready := os.Getenv(role); ready != "" {
		hold(t, ready)
	}
	run, ready := stage.RunID()+"ends", filepath.Join(stage.Folder(t), "ready")
	cmd := exec.Command(os.Args[0], "-test.run=^TestPostgresEndsWithBinary$")
	cmd.Env = append(os.Environ(), role+"="+ready, "ICP_STAGE_RUN="+run)
	binary := stage.Start(t, "binary", cmd)
	binary.WaitReady(t, time.Minute, func() error {
		_, err := os.Stat(ready)
		return err
	})
	if there := strings.Join(left(t, run), "\n"); !strings.Contains(there, "folder /tmp/icp-"+run) || !strings.Contains(there, "DO") {
		t.Fatalf("there is\n%s\nwant PostgreSQL's folder and its busy process", there)
	}
	binary.Kill()
	stage.Eventually(t, 30*time.Second, func() error {
		if there := left(t, run); len(there) > 0 {
			return fmt.Errorf("still there:\n%s", strings.Join(there, "\n"))
		}
		return nil
	})
}

func left(t *testing.T, run string) []string {
	t.Helper()
	there, err := stage.Left(run)
	if err != nil {
		t.Fatal(err)
	}
	return there
}

// hold gives the shared server something that it never ends by itself, says that
// this is so, and stays until killed.
func hold(t *testing.T, ready string) {
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
	if err := os.WriteFile(ready, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	select {} // until killed
}
