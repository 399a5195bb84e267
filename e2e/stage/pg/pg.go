// Package pg starts real PostgreSQL servers for tests: one that the tests of a
// binary share, ones of their own, and a primary with a standby to fail over to.
//
//	db := pg.Shared(t).NewDatabase(t)
//	conn := pg.Connect(t, db.DSN)
package pg

import (
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/authsec-ai/icp/e2e/stage"
)

// Options say what server to start. The zero value is one that nobody reaches
// but through its socket, and that forgets its data when the machine fails.
type Options struct {
	Version  Version           // or else what ICP_TEST_POSTGRES_VERSION says, or else V15
	Durable  bool              // waits for the disk, as PostgreSQL comes
	TCP      bool              // also listens on loopback, at Server.Addr; asks for no password
	TLS      *TLS              // as TCP, and takes connections there with TLS alone
	Settings map[string]string // further settings, as in postgresql.conf
}

// TLS is the server's side of TLS, in PEM.
type TLS struct {
	Certificate, Key []byte
	// ClientCAs have the server demand a client certificate that chains to one of
	// these. PostgreSQL looks at the chain, the dates and the key usage alone.
	ClientCAs []byte
}

// Server is a private PostgreSQL with a data folder of its own. Its socket is in
// that folder's parent.
type Server struct {
	Version string // as it says itself: "15.18"
	Addr    string // of TCP, an IP address and a port; empty without

	dir     string // has the socket and the folder "data"
	port    string // of TCP and in the socket's name
	bin     string // has the programs
	flags   []string
	process *stage.Process
}

// Start makes an empty server and starts it. It ends when the test does.
func Start(t stage.T, o Options) *Server {
	t.Helper()
	s := newServer(t, o)
	s.makeData(t)
	s.configure(t, o)
	s.Start(t)
	hosts{s}.makeRoles(t)
	return s
}

func newServer(t stage.T, o Options) *Server {
	t.Helper()
	s := &Server{dir: stage.Folder(t), port: "5432", bin: find(t, o.Version)}
	s.own(t, s.dir)
	return s
}

// makeData makes the data folder.
func (s *Server) makeData(t stage.T) {
	t.Helper()
	initdb := s.command("initdb", "-D", s.data(), "-U", superuser, "-A", "trust",
		"-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
	if p := stage.Start(t, "initdb", initdb); p.Err() != nil {
		t.Fatalf("make PostgreSQL's data: initdb: %v\n%s", p.Err(), p.Tail(4096))
	}
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

// Start starts a server that was stopped or killed, on the data it had then. It
// ends when this t does.
func (s *Server) Start(t stage.T) {
	t.Helper()
	cmd := s.command("postgres", append([]string{"-D", s.data()}, s.flags...)...)
	s.process = stage.Start(t, "postgres", cmd)
	p := s.process                                  // of this start
	t.Cleanup(func() { s.end(p, syscall.SIGQUIT) }) // before the stage's own end, which would wait for the clients
	p.WaitReady(t, patience, func() error { return hosts{s}.ask(t.Context(), "SHOW server_version", &s.Version) })
	s.Version, _, _ = strings.Cut(s.Version, " ") // the rest names the distribution
}

// patience bounds how long a server may take to start or to stop.
const patience = time.Minute

// Stop disconnects everybody, writes what there is to write and ends.
func (s *Server) Stop(t stage.T) {
	t.Helper()
	if !s.end(s.process, syscall.SIGINT) {
		t.Fatalf("PostgreSQL did not stop within %s; it printed:\n%s", patience, s.process.Tail(4096))
	}
}

// LogFile gives what the server prints since its last start.
func (s *Server) LogFile() string { return s.process.LogFile }

// Kill ends all its processes at once (SIGKILL).
func (s *Server) Kill() { s.process.Kill() }

// end sends a signal and says whether the server ended then; it has ended
// anyway.
func (s *Server) end(p *stage.Process, signal syscall.Signal) bool {
	_ = p.Signal(signal) // it may have ended already
	select {
	case <-p.Done():
		return true
	case <-time.After(patience):
		p.Kill()
		return false
	}
}
