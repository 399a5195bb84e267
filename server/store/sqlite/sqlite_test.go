package sqlite_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	_ "modernc.org/sqlite" // to look into the file past the store

	"github.com/authsec-ai/icp/internal/audit"
	"github.com/authsec-ai/icp/server/store"
	"github.com/authsec-ai/icp/server/store/sqlite"
	"github.com/authsec-ai/icp/server/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fresh opens databases that never poll.
func fresh(tb testing.TB) storetest.Opener {
	path := filepath.Join(tb.TempDir(), "a b?c#d%20.db") // a name that a URL would misread
	return func(tb testing.TB) store.Store { return open(tb, path, sqlite.Options{PollInterval: time.Hour}) }
}

func open(tb testing.TB, path string, opts sqlite.Options) store.Store {
	tb.Helper()
	s, err := sqlite.Open(tb.Context(), path, opts)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.Close() }) // a test may have closed it already
	return s
}

func TestStore(t *testing.T) { storetest.Run(t, fresh) }

func TestCrash(t *testing.T) {
	storetest.Crash(t, func(tb testing.TB) string { return filepath.Join(tb.TempDir(), "icp.db") },
		func(tb testing.TB, path string) store.Store { return open(tb, path, sqlite.Options{}) })
}

// TestPoll has another process's store see a change by polling.
func TestPoll(t *testing.T) {
	path := filepath.Join(t.TempDir(), "icp.db")
	a := open(t, path, sqlite.Options{})
	b := open(t, path, sqlite.Options{PollInterval: 10 * time.Millisecond})
	if err := a.CreateTenant(t.Context(), store.Tenant{ID: "a", TrustDomain: "a.example"}, nil, audit.Event{}); err != nil {
		t.Fatal(err)
	}
	before, err := b.Tenant(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	woken := make(chan error, 1)
	go func() {
		_, err := b.Wait(ctx, "a", before.Cursor)
		woken <- err
	}()
	if err := a.UpdateSettings(t.Context(), "a", store.Settings{AnyNode: true}, audit.Event{}); err != nil {
		t.Fatal(err)
	}
	if err := <-woken; err != nil {
		t.Fatal(err)
	}
}

func TestOpenFailures(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"newer", "unknown", "locked", "torn"} {
		open(t, file(name), sqlite.Options{}).Close()
	}
	execute(t, file("newer"), "INSERT INTO icp_schema VALUES (99)")
	execute(t, file("unknown"), "DELETE FROM icp_schema")
	holdWriteLock(t, file("locked"))
	write(t, file("text"), strings.Repeat("not a database\n", 100))
	tear(t, file("torn"))
	for name, want := range map[string]string{
		"newer":        "it has data version 99 and this program knows versions up to 1: run the newer program",
		"unknown":      "its table icp_schema has no data version; it is damaged, or not a database of ICP",
		"locked":       "another process is writing to it and does not stop; end that process",
		"text":         "the file is damaged or not an SQLite database; restore it from a backup",
		"torn":         "the file is damaged or not an SQLite database; restore it from a backup",
		"no/such/path": "no such file or directory",
		".":            "is a directory",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := sqlite.Open(t.Context(), file(name), sqlite.Options{BusyTimeout: 50 * time.Millisecond})
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Fatalf("error %v; want one with %q", err, want)
			}
			if strings.Contains(err.Error(), "\n") || !strings.HasPrefix(err.Error(), "open database "+file(name)+": ") {
				t.Fatalf("error %q; want one line that names the file", err)
			}
		})
	}
}

// TestPrivate keeps the file from other users, whatever the umask.
func TestPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "icp.db")
	s := open(t, path, sqlite.Options{})
	if err := s.CreateTenant(t.Context(), store.Tenant{ID: "a", TrustDomain: "a.example"}, nil, audit.Event{}); err != nil {
		t.Fatal(err)
	}
	for _, suffix := range []string{"", "-wal", "-shm"} {
		info, err := os.Stat(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if mode := info.Mode().Perm(); mode != 0o600 {
			t.Errorf("%s has mode %o; want 600", path+suffix, mode)
		}
	}
}

func connect(t *testing.T, path string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func execute(t *testing.T, path, statement string) {
	t.Helper()
	if _, err := connect(t, path).ExecContext(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
}

// holdWriteLock is the other process that does not stop writing.
func holdWriteLock(t *testing.T, path string) {
	t.Helper()
	conn, err := connect(t, path).Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := conn.ExecContext(t.Context(), "BEGIN EXCLUSIVE"); err != nil {
		t.Fatal(err)
	}
}

// tear overwrites the file's pages and leaves its header.
func tear(t *testing.T, path string) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range raw[100:] {
		raw[100+i] = 0xff
	}
	write(t, path, string(raw))
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(fmt.Errorf("write %s: %w", path, err))
	}
}

func BenchmarkStore(b *testing.B) { storetest.Bench(b, fresh) }
