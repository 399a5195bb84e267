package proxy

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/proxy/upstream"
)

// Config is the proxy's configuration, as its YAML file has it.
type Config struct {
	Listen        string           `yaml:"listen"`         // mutual TLS, host:port
	MetricsListen string           `yaml:"metrics_listen"` // loopback only; empty for none
	WorkloadAPI   string           `yaml:"workload_api"`   // SPIFFE_ENDPOINT_SOCKET form, unix:///…
	SPIFFEID      string           `yaml:"spiffe_id"`      // which of its identities the proxy uses; empty for the default one
	Routes        []upstream.Route `yaml:"routes"`
	Policies      Policies         `yaml:"policies"`
	AuditFile     string           `yaml:"audit_file"`   // JSON lines, appended; empty or "-" for the program's standard output
	ExpiryGrace   time.Duration    `yaml:"expiry_grace"` // how long a running answer may outlive the caller's SVID
	DrainTimeout  time.Duration    `yaml:"drain_timeout"`
	IdleTimeout   time.Duration    `yaml:"idle_timeout"` // between bytes of a request body, and for a write

	MaxBufferedBytes int64 `yaml:"max_buffered_bytes"` // of all bodies that wait to be judged; a quarter for one caller
}

// Policies says where policies come from: exactly one of File and Server.
type Policies struct {
	File         string        `yaml:"file"`           // YAML or JSON, read again when it changes
	Server       string        `yaml:"server"`         // https URL of icp-server; the proxy shows its SVID there
	ServerCAFile string        `yaml:"server_ca_file"` // PEM that vouches for it; empty means the system's roots
	CacheFile    string        `yaml:"cache_file"`     // keeps the server's last set over a restart; empty for none
	Lease        time.Duration `yaml:"lease"`          // how long a set counts without word from the server; then everything is denied
}

// EnvPrefix starts the environment variables that override the file.
const EnvPrefix = "ICP_PROXY_"

// Defaults gives the configuration that a file and the environment change.
func Defaults() Config {
	return Config{
		Listen:        "127.0.0.1:8444",
		MetricsListen: "127.0.0.1:9464",
		WorkloadAPI:   "unix:///run/spire/sockets/agent.sock",
		ExpiryGrace:   5 * time.Second,
		DrainTimeout:  20 * time.Second,
		IdleTimeout:   30 * time.Second,

		MaxBufferedBytes: 512 << 20,

		Policies: Policies{Lease: time.Minute},
	}
}

// check refuses a configuration that can't work, and gives the wanted ID (zero
// for the default one).
func (c *Config) check() (spiffeid.ID, error) {
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		return spiffeid.ID{}, fmt.Errorf("listen: %w", err)
	}
	if err := checkLoopback(c.MetricsListen); err != nil {
		return spiffeid.ID{}, fmt.Errorf("metrics_listen: %w", err)
	}
	if c.WorkloadAPI == "" {
		return spiffeid.ID{}, fmt.Errorf("workload_api is missing; name the socket, for example unix:///run/spire/sockets/agent.sock")
	}
	if c.ExpiryGrace < 0 || c.DrainTimeout < 0 || c.IdleTimeout <= 0 {
		return spiffeid.ID{}, fmt.Errorf("expiry_grace and drain_timeout can't be negative, idle_timeout must be positive")
	}
	if c.SPIFFEID == "" {
		return spiffeid.ID{}, nil
	}
	id, err := identity.ParseWorkloadID(c.SPIFFEID)
	if err != nil {
		return spiffeid.ID{}, fmt.Errorf("spiffe_id: %w", err)
	}
	return id, nil
}

// checkLoopback keeps health and metrics, which ask nobody who they are, on
// this host.
func checkLoopback(listen string) error {
	if listen == "" {
		return nil
	}
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return err
	}
	addr, err := netip.ParseAddr(host)
	if host == "localhost" || err == nil && addr.IsLoopback() {
		return nil
	}
	return fmt.Errorf("%q is not a loopback address; health and metrics are for this host only", listen)
}
