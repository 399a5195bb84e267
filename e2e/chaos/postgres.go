package chaos

import (
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver of what is read

	"github.com/authsec-ai/icp/e2e/stage"
)

// postgres is a database server of the run's own, which nobody kills. Its data
// outlives it, so that a run that was interrupted goes on with it.
type postgres struct {
	dir string // has the socket, and data
}

// startPostgres starts the server of a folder, on the data it had before if there
// is any. It ends when t does.
func startPostgres(t stage.T, dir string) *postgres {
	bin := filepath.Dir(stage.Find(t, "ICP_TEST_POSTGRES", "initdb",
		"/usr/lib/postgresql/15/bin/initdb", "/usr/lib/postgresql/16/bin/initdb", "/usr/lib/postgresql/17/bin/initdb"))
	p := &postgres{dir: dir}
	if err := p.own(); err != nil {
		t.Fatalf("make PostgreSQL's folder: %v", err)
	}
	data := filepath.Join(dir, "data")
	if _, err := os.Stat(data); errors.Is(err, fs.ErrNotExist) {
		made := filepath.Join(dir, "made")
		stage.Output(t, p.command(bin, "initdb", "-D", made, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"))
		if err := os.Rename(made, data); err != nil { // what was cut off has not this name
			t.Fatalf("make PostgreSQL's data: %v", err)
		}
	}
	// Without fsync what is committed still outlives every process.
	server := stage.Start(t, "postgres", p.command(bin, "postgres", "-D", data, "-k", dir, "-c", "listen_addresses=", "-c", "fsync=off"))
	t.Cleanup(func() {
		_ = server.Signal(syscall.SIGINT) // before the stage asks it to wait for its clients
		<-server.Done()
	})
	server.WaitReady(t, startWithin, func() error { return p.setUp(t.Context()) })
	return p
}

// own makes the folder, for the user as whom the server runs: not as root.
func (p *postgres) own() error {
	if err := os.MkdirAll(p.dir, 0o755); err != nil || os.Getuid() != 0 {
		return err
	}
	return os.Chown(p.dir, nobody, nobody)
}

const nobody = 65534

func (p *postgres) command(bin, name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(bin, name), args...)
	cmd.Dir = p.dir
	if os.Getuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	return cmd
}

// setUp makes the role and the database that the product uses.
func (p *postgres) setUp(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, p.dsn("postgres", "postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	for _, thing := range []struct{ look, make string }{
		{`SELECT count(*) FROM pg_roles WHERE rolname = 'icp'`, `CREATE ROLE icp LOGIN`},
		{`SELECT count(*) FROM pg_database WHERE datname = 'icp'`, `CREATE DATABASE icp OWNER icp`},
	} {
		var there int
		err := conn.QueryRow(ctx, thing.look).Scan(&there)
		if err == nil && there == 0 {
			_, err = conn.Exec(ctx, thing.make)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// socket is where the server listens.
func (p *postgres) socket() string { return filepath.Join(p.dir, ".s.PGSQL.5432") }

// dsn connects as a role by the socket.
func (p *postgres) dsn(role, database string) string {
	return (&url.URL{Scheme: "postgres", User: url.User(role), Path: "/" + database,
		RawQuery: url.Values{"host": {p.dir}}.Encode()}).String()
}

// record reads what the product keeps.
func (p *postgres) record(ctx context.Context, tenant string) (r Record, err error) {
	db, err := sql.Open("pgx", p.dsn("postgres", "icp")) // a superuser sees every tenant
	if err != nil {
		return r, err
	}
	defer db.Close()
	return r, r.read(ctx, db, tenant)
}
