package pg

import (
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/authsec-ai/icp/e2e/stage"
)

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
		s.Addr = net.JoinHostPort(loopback, s.port)
		settings["listen_addresses"] = loopback
		hba += s.admitTCP(t, o.TLS, settings)
	}
	s.write(t, "data/pg_hba.conf", []byte(hba))
	settings["port"] = s.port
	maps.Copy(settings, o.Settings)
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		s.set(name, settings[name])
	}
}

// loopback is where a server listens on TCP.
const loopback = "127.0.0.1"

// set changes a setting from the next start on.
func (s *Server) set(name, value string) { s.flags = append(s.flags, "-c", name+"="+value) }

// admitTCP gives the lines of pg_hba.conf for connections by TCP.
func (s *Server) admitTCP(t stage.T, tls *TLS, settings map[string]string) string {
	t.Helper()
	if tls == nil {
		return "hostnossl all all " + loopback + "/32 trust\n"
	}
	s.write(t, "server.pem", tls.Certificate)
	s.write(t, "server.key", tls.Key)
	settings["ssl"] = "on"
	settings["ssl_cert_file"], settings["ssl_key_file"] = filepath.Join(s.dir, "server.pem"), filepath.Join(s.dir, "server.key")
	if tls.ClientCAs == nil {
		return "hostssl all all " + loopback + "/32 trust\n"
	}
	s.write(t, "clients.pem", tls.ClientCAs)
	settings["ssl_ca_file"] = filepath.Join(s.dir, "clients.pem")
	return "hostssl all all " + loopback + "/32 trust clientcert=verify-ca\n"
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
