package stage_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/authsec-ai/icp/e2e/stage"
)

func TestPostgres(t *testing.T) {
	a, b := stage.Postgres(t).NewDatabase(t), stage.Postgres(t).NewDatabase(t)
	conn, err := pgx.Connect(t.Context(), a.DSN)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var super bool
	if err := conn.QueryRow(t.Context(), "SELECT rolsuper FROM pg_roles WHERE rolname = current_user").Scan(&super); err != nil || super {
		t.Fatalf("superuser %v, error %v; want an ordinary role", super, err)
	}
	if a.DSN == b.DSN {
		t.Fatal("two tests got the same database")
	}
}

// TestPostgresEndsWithBinary kills a test binary that has started PostgreSQL
// and looks whether anything of it stays.
func TestPostgresEndsWithBinary(t *testing.T) {
	const role = "ICP_TEST_HOLD_POSTGRES"
	if out := os.Getenv(role); out != "" {
		dsn := stage.Postgres(t).NewDatabase(t).DSN
		if err := os.WriteFile(out, []byte(dsn), 0o600); err != nil {
			t.Fatal(err)
		}
		select {} // until killed
	}
	out := filepath.Join(t.TempDir(), "dsn")
	cmd := exec.Command(os.Args[0], "-test.run=^TestPostgresEndsWithBinary$")
	cmd.Env = append(os.Environ(), role+"="+out)
	binary := stage.Start(t, "binary", cmd)
	var dsn string
	binary.WaitReady(t, time.Minute, func() error {
		raw, err := os.ReadFile(out)
		dsn = string(raw)
		return err
	})
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil || !strings.HasPrefix(cfg.Host, "/tmp/icp-pg") {
		t.Fatalf("DSN %q, error %v; want a socket folder of its own", dsn, err)
	}
	binary.Kill()
	stage.Eventually(t, 30*time.Second, func() error {
		if _, err := os.Stat(cfg.Host); !os.IsNotExist(err) {
			return fmt.Errorf("%s is still there", cfg.Host)
		}
		return nil
	})
}
