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

// Database is one empty database of a test.
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

var databases atomic.Int64

// NewDatabase makes an empty database. It goes when the server does: dropping
// one takes longer than making one.
func (s *Server) NewDatabase(t stage.T) Database {
	t.Helper()
	name := fmt.Sprintf("t%d", databases.Add(1))
	s.administer(t, "CREATE DATABASE "+name+" OWNER "+owner)
	db := database(name, s)
	if s.Addr != "" {
		db.TCPDSN = "postgres://" + user + "@" + s.Addr + "/" + name
	}
	return db
}

// database names a database to clients that try the servers one after the other.
func database(name string, servers ...*Server) Database {
	return Database{Name: name, DSN: dsn(user, name, servers), OwnerDSN: dsn(owner, name, servers),
		SuperDSN: dsn(superuser, name, servers)}
}

func dsn(role, database string, servers []*Server) string {
	var dirs, ports []string
	for _, s := range servers {
		dirs, ports = append(dirs, s.dir), append(ports, s.port)
	}
	query := url.Values{"host": {strings.Join(dirs, ",")}, "port": {strings.Join(ports, ",")}}
	if len(servers) > 1 {
		query.Set("target_session_attrs", "read-write") // the one that is no standby
	}
	return (&url.URL{Scheme: "postgres", User: url.User(role), Path: "/" + database, RawQuery: query.Encode()}).String()
}

// makeRoles makes the roles that databases are for.
func (s *Server) makeRoles(t stage.T) {
	t.Helper()
	s.administer(t, "CREATE ROLE "+owner+" LOGIN; CREATE ROLE "+user+" LOGIN")
}

// administer executes statements as the superuser.
func (s *Server) administer(t stage.T, statement string) {
	t.Helper()
	err := s.asSuperuser(t.Context(), func(conn *pgx.Conn) error {
		_, err := conn.Exec(t.Context(), statement)
		return err
	})
	if err != nil {
		t.Fatalf("PostgreSQL: %s: %v", statement, err)
	}
}

// ask runs a query of one value as the superuser.
func (s *Server) ask(ctx context.Context, query string, value any) error {
	return s.asSuperuser(ctx, func(conn *pgx.Conn) error { return conn.QueryRow(ctx, query).Scan(value) })
}

func (s *Server) asSuperuser(ctx context.Context, f func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, dsn(superuser, "postgres", []*Server{s}))
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
