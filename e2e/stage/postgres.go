package stage

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// PostgresServer is a private PostgreSQL without TCP port: its socket is in a
// folder of its own. It lives as long as the test binary.
type PostgresServer struct {
	dir string // socket, data and log
}

// The roles of a PostgresServer. Neither is a superuser, so row-level security binds both.
const (
	postgresOwner = "icp_owner" // owns the databases
	postgresUser  = "icp"       // owns nothing
)

// shared is the one server of this test binary: starting one takes seconds.
var shared struct {
	once   sync.Once
	server *PostgresServer
	err    error
}

// Postgres gives the test binary's PostgreSQL server and starts it at the first
// call. A missing PostgreSQL fails the test.
func Postgres(tb testing.TB) *PostgresServer {
	tb.Helper()
	shared.once.Do(func() { shared.server, shared.err = StartPostgres(Forgetful) })
	if shared.err != nil {
		tb.Fatalf("start PostgreSQL: %v", shared.err)
	}
	return shared.server
}

// Durability says whether a PostgresServer keeps what it has committed when the
// machine fails.
type Durability bool

// Durable is how PostgreSQL comes; Forgetful saves tests the waits for the disk.
const (
	Durable   Durability = true
	Forgetful Durability = false
)

func (d Durability) options() []string {
	if d == Durable {
		return nil
	}
	return []string{"-c", "fsync=off", "-c", "full_page_writes=off", "-c", "synchronous_commit=off"}
}

// supervise runs PostgreSQL until its standard input ends, which is when the
// test binary does, in whatever way; then it stops it and removes the folder.
// setpriv has the kernel kill PostgreSQL if the supervisor is killed.
const supervise = `
dir=$1; shift
"$@" &
pid=$!
read -r _
kill -INT $pid 2>/dev/null
wait $pid
rm -rf "$dir"
`

// StartPostgres starts a server that lives as long as this program.
func StartPostgres(durability Durability) (*PostgresServer, error) {
	initdb, err := Locate("ICP_TEST_POSTGRES", "initdb",
		"/usr/lib/postgresql/15/bin/initdb", "/usr/lib/postgresql/16/bin/initdb", "/usr/lib/postgresql/17/bin/initdb")
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("/tmp", "icp-pg") // short: a socket's path has at most 107 bytes
	if err != nil {
		return nil, err
	}
	s := &PostgresServer{dir: dir}
	if err := s.start(filepath.Dir(initdb), durability); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return s, nil
}

func (s *PostgresServer) start(bin string, durability Durability) error {
	dir := s.dir
	as, err := unprivileged(dir)
	if err != nil {
		return err
	}
	data, log := filepath.Join(dir, "data"), filepath.Join(dir, "log")
	initdb := exec.Command(as[0], append(as[1:], filepath.Join(bin, "initdb"), "-D", data, "-U", "postgres",
		"-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")...)
	initdb.Dir = dir
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	server := append(as, filepath.Join(bin, "postgres"), "-D", data, "-k", dir, "-c", "listen_addresses=",
		"-c", "max_connections=200")
	server = append(server, durability.options()...)
	if err := startSupervised(dir, log, server); err != nil {
		return err
	}
	return s.waitReady(log)
}

// unprivileged gives the folder to the user that PostgreSQL shall run as, and
// the command that runs it so: PostgreSQL refuses to run as root.
func unprivileged(dir string) ([]string, error) {
	path, err := Locate("ICP_TEST_SETPRIV", "setpriv")
	if err != nil {
		return nil, err
	}
	setpriv := []string{path, "--pdeathsig", "KILL"}
	if os.Geteuid() != 0 {
		return setpriv, nil
	}
	const nobody = 65534
	if err := os.Chown(dir, nobody, nobody); err != nil {
		return nil, err
	}
	id := fmt.Sprint(nobody)
	return append(setpriv, "--reuid", id, "--regid", id, "--clear-groups"), nil
}

func startSupervised(dir, logPath string, server []string) error {
	log, err := os.Create(logPath)
	if err != nil {
		return err
	}
	defer log.Close()
	ours, theirs, err := lifeline()
	if err != nil {
		return err
	}
	defer theirs.Close()
	cmd := exec.Command("/bin/sh", append([]string{"-c", supervise, "sh", dir}, server...)...)
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = dir, theirs, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the tests; the supervisor cleans up after them
	if err := cmd.Start(); err != nil {
		syscall.Close(ours)
		return err
	}
	return cmd.Process.Release()
}

func (s *PostgresServer) waitReady(log string) error {
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := s.admin(context.Background(), "SELECT 1")
		if err == nil {
			return s.admin(context.Background(), "CREATE ROLE "+postgresOwner+" LOGIN; CREATE ROLE "+postgresUser+" LOGIN")
		}
		if time.Now().After(deadline) {
			printed, _ := os.ReadFile(log) // best effort, for the message
			return fmt.Errorf("it does not answer: %w\n%s", err, printed)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// admin runs statements as the superuser.
func (s *PostgresServer) admin(ctx context.Context, statements ...string) error {
	conn, err := pgx.Connect(ctx, s.dsn("postgres", "postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for _, statement := range statements {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

func (s *PostgresServer) dsn(role, database string) string {
	return (&url.URL{Scheme: "postgres", User: url.User(role), Path: "/" + database,
		RawQuery: url.Values{"host": {s.dir}}.Encode()}).String()
}

// Database is one empty database of a test.
type Database struct {
	// DSN connects as a role that owns nothing, OwnerDSN as the role that may
	// make tables. Neither is a superuser.
	DSN, OwnerDSN string
	// SuperDSN connects as the superuser, to whom no rule applies.
	SuperDSN string
}

// NewDatabase makes an empty database. It goes when the server does: dropping
// one takes longer than making one.
func (s *PostgresServer) NewDatabase(tb testing.TB) Database {
	tb.Helper()
	db, err := s.CreateDatabase(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	return db
}

// CreateDatabase is NewDatabase for programs that are no tests.
func (s *PostgresServer) CreateDatabase(ctx context.Context) (Database, error) {
	name := fmt.Sprintf("t%d", time.Now().UnixNano())
	if err := s.admin(ctx, "CREATE DATABASE "+name+" OWNER "+postgresOwner); err != nil {
		return Database{}, fmt.Errorf("make database: %w", err)
	}
	return Database{DSN: s.dsn(postgresUser, name), OwnerDSN: s.dsn(postgresOwner, name), SuperDSN: s.dsn("postgres", name)}, nil
}
