package pg

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/authsec-ai/icp/e2e/stage"
)

// The roles of a Server. Owner and user are ordinary ones, so row-level security
// binds both.
const (
	superuser = "postgres"
	owner     = "icp_owner" // owns the databases
	user      = "icp"       // owns nothing
)

// Database is one database of a test.
type Database struct {
	Name string
	// DSN connects as a role that owns nothing, OwnerDSN as the role that may
	// make tables. Neither is a superuser.
	DSN, OwnerDSN string
	// SuperDSN connects as the superuser, to whom no rule applies.
	SuperDSN string
	// TCPDSN is DSN over TCP, or empty. If the server has TLS, add sslmode,
	// sslrootcert, sslcert and sslkey, or set pgx's TLSConfig.
	TCPDSN string
}

// NewDatabase makes an empty database. It goes when the server does: dropping
// one takes longer than making one.
func (s *Server) NewDatabase(t stage.T) Database {
	t.Helper()
	return hosts{s}.newDatabase(t)
}

// Database gives the ways to this server's database of that name.
func (s *Server) Database(name string) Database { return hosts{s}.database(name) }

// hosts are servers of which clients use the one that takes writes.
type hosts []*Server

var databases atomic.Int64

func (h hosts) newDatabase(t stage.T) Database {
	t.Helper()
	name := fmt.Sprintf("t%d", databases.Add(1))
	h.administer(t, "CREATE DATABASE "+name+" OWNER "+owner)
	return h.database(name)
}

func (h hosts) database(name string) Database {
	db := Database{Name: name, DSN: h.dsn(user, name), OwnerDSN: h.dsn(owner, name), SuperDSN: h.dsn(superuser, name)}
	if h[0].Addr != "" {
		db.TCPDSN = h.address(user, name, func(*Server) string { return loopback })
	}
	return db
}

func (h hosts) dsn(role, database string) string {
	return h.address(role, database, func(s *Server) string { return s.dir })
}

// address gives a DSN, with what host says of each server.
func (h hosts) address(role, database string, host func(*Server) string) string {
	var names, ports []string
	for _, s := range h {
		names, ports = append(names, host(s)), append(ports, s.port)
	}
	query := url.Values{"host": {strings.Join(names, ",")}, "port": {strings.Join(ports, ",")}}
	if len(h) > 1 {
		query.Set("target_session_attrs", "read-write")
	}
	return (&url.URL{Scheme: "postgres", User: url.User(role), Path: "/" + database, RawQuery: query.Encode()}).String()
}

// makeRoles makes the roles that databases are for.
func (h hosts) makeRoles(t stage.T) {
	t.Helper()
	h.administer(t, "CREATE ROLE "+owner+" LOGIN; CREATE ROLE "+user+" LOGIN")
}

// administer executes a statement as the superuser.
func (h hosts) administer(t stage.T, statement string) {
	t.Helper()
	err := h.asSuperuser(t.Context(), func(conn *pgx.Conn) error {
		_, err := conn.Exec(t.Context(), statement)
		return err
	})
	if err != nil {
		t.Fatalf("PostgreSQL: %s: %v", statement, err)
	}
}

// ask runs a query of one value as the superuser.
func (h hosts) ask(ctx context.Context, query string, value any) error {
	return h.asSuperuser(ctx, func(conn *pgx.Conn) error { return conn.QueryRow(ctx, query).Scan(value) })
}

func (h hosts) asSuperuser(ctx context.Context, f func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, h.dsn(superuser, "postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	return f(conn)
}

// Connect opens a connection that closes when the test ends.
func Connect(t stage.T, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = conn.Close(ctx) // the server may be gone
	})
	return conn
}
