// Package controlplane puts a server together from its configuration: the one
// place that knows every store, key custody and node attestation method. Both
// icp-server and `icp dev` are made of it.
package controlplane

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/authsec-ai/icp/internal/telemetry"
	"github.com/authsec-ai/icp/server"
	"github.com/authsec-ai/icp/server/ca"
	"github.com/authsec-ai/icp/server/keys/disk"
	"github.com/authsec-ai/icp/server/nodes"
	"github.com/authsec-ai/icp/server/nodes/jointoken"
	"github.com/authsec-ai/icp/server/registry"
	"github.com/authsec-ai/icp/server/servertls"
	"github.com/authsec-ai/icp/server/store"
	"github.com/authsec-ai/icp/server/store/postgres"
	"github.com/authsec-ai/icp/server/store/sqlite"
)

// Config is the server's configuration, as its YAML file has it.
type Config struct {
	Listen  string  `yaml:"listen"`   // TLS port, host:port
	DataDir string  `yaml:"data_dir"` // keys, the SQLite database, the TLS certificate made for want of one
	Store   Storage `yaml:"store"`
	TLS     TLS     `yaml:"tls"`
	// HealthListen serves /healthz, /readyz and /metrics; loopback only.
	HealthListen string `yaml:"health_listen"`
	// ReattestGrace is how long an agent whose SVID has expired may still renew it.
	ReattestGrace time.Duration `yaml:"reattest_grace"`
}

// Storage says where state lives: exactly one kind.
type Storage struct {
	SQLite   string `yaml:"sqlite"`   // path of the database; empty means icp.db in data_dir
	Postgres string `yaml:"postgres"` // connection string
	// PostgresOwner is the connection string of the role that owns the tables and
	// changes them at an upgrade, so that the role of Postgres need not; empty
	// means that role does both.
	PostgresOwner string        `yaml:"postgres_owner"`
	PollInterval  time.Duration `yaml:"poll_interval"` // how often to look for other replicas' changes that no notification told of; 0 means 250 ms
}

// TLS names the server's certificate. Without files, an authority of its own
// signs one for hosts; clients then trust server-ca.pem in data_dir.
type TLS struct {
	CertFile string   `yaml:"cert_file"`
	KeyFile  string   `yaml:"key_file"`
	Hosts    []string `yaml:"hosts"`
}

// Defaults gives the configuration that a file and the environment change.
func Defaults() Config {
	return Config{
		Listen:        "0.0.0.0:8443",
		DataDir:       "/var/lib/icp-server",
		HealthListen:  "127.0.0.1:8081",
		ReattestGrace: 7 * 24 * time.Hour,
		TLS:           TLS{Hosts: []string{"localhost", "127.0.0.1", "::1"}},
	}
}

// ControlPlane is a server with what it is made of.
type ControlPlane struct {
	*server.Server
	Store  store.Store
	CA     *ca.CA
	CAFile string // PEM that clients must trust; "" with a certificate of the operator's
}

// Open opens keys, store and certificate and puts the server together. Close it.
func Open(ctx context.Context, cfg Config, tel *telemetry.Telemetry) (*ControlPlane, error) {
	if err := os.MkdirAll(cfg.DataDir, 0o755); err != nil {
		return nil, fmt.Errorf("make the data folder: %w", err)
	}
	certificate, caFile, err := loadCertificate(cfg, tel.Log)
	if err != nil {
		return nil, err
	}
	custody, err := disk.Open(filepath.Join(cfg.DataDir, "keys"))
	if err != nil {
		return nil, fmt.Errorf("open the keys: %w", err)
	}
	db, err := openStore(ctx, cfg, tel)
	if err != nil {
		return nil, err
	}
	authority, err := ca.New(ca.Config{Store: db, Custody: custody, Now: time.Now, Rand: rand.Reader, Log: tel.Log, Meter: tel.Meter})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	srv, err := server.New(server.Config{
		Listen: cfg.Listen, Store: db, CA: authority, TLSCertificate: certificate, Telemetry: tel,
		Verifiers: map[string]nodes.Verifier{jointoken.Method: jointoken.Verifier{Tokens: db}},
		Now:       time.Now, Random: rand.Reader, ReattestGrace: cfg.ReattestGrace,
	})
	if err != nil {
		authority.Close()
		return nil, errors.Join(err, db.Close())
	}
	tel.AddCheck("store", db.Ping)
	return &ControlPlane{Server: srv, Store: db, CA: authority, CAFile: caFile}, nil
}

// Close has the CA finish its records and releases the store. Call it after Run
// has returned.
func (c *ControlPlane) Close() error {
	c.CA.Close()
	return c.Store.Close()
}

func openStore(ctx context.Context, cfg Config, tel *telemetry.Telemetry) (store.Store, error) {
	if cfg.Store.SQLite != "" && cfg.Store.Postgres != "" {
		return nil, errors.New("store: sqlite and postgres are both set; choose one")
	}
	if cfg.Store.Postgres != "" {
		return postgres.Open(ctx, cfg.Store.Postgres, postgres.Options{MigrateDSN: cfg.Store.PostgresOwner, PollInterval: cfg.Store.PollInterval, Log: tel.Log})
	}
	path := cfg.Store.SQLite
	if path == "" {
		path = filepath.Join(cfg.DataDir, "icp.db")
	}
	return sqlite.Open(ctx, path, sqlite.Options{PollInterval: cfg.Store.PollInterval, Log: tel.Log})
}

type certificateFunc = func(*tls.ClientHelloInfo) (*tls.Certificate, error)

func loadCertificate(cfg Config, log *slog.Logger) (certificateFunc, string, error) {
	if (cfg.TLS.CertFile == "") != (cfg.TLS.KeyFile == "") {
		return nil, "", errors.New("tls: cert_file and key_file go together")
	}
	if cfg.TLS.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(cfg.TLS.CertFile, cfg.TLS.KeyFile)
		if err != nil {
			return nil, "", fmt.Errorf("load the TLS certificate: %w", err)
		}
		return func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &cert, nil }, "", nil
	}
	own := &ownCertificate{dir: cfg.DataDir, hosts: cfg.TLS.Hosts, log: log}
	if _, err := own.get(nil); err != nil {
		return nil, "", fmt.Errorf("make a TLS certificate: %w", err)
	}
	return own.get, own.caFile, nil
}

// ownCertificate is a certificate under the server's own authority, made anew
// before it expires.
type ownCertificate struct {
	dir   string
	hosts []string
	log   *slog.Logger

	mu     sync.Mutex
	cert   tls.Certificate
	due    time.Time // when to look again whether it has to be made anew
	caFile string
}

func (o *ownCertificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := time.Now()
	if now.Before(o.due) {
		return &o.cert, nil
	}
	cert, caFile, err := servertls.LoadOrCreate(o.dir, o.hosts, now)
	switch {
	case err == nil:
		o.cert, o.caFile, o.due = cert, caFile, now.Add(time.Hour)
	case o.cert.Leaf == nil || now.After(o.cert.Leaf.NotAfter):
		return nil, err
	default: // what is at hand is good for weeks
		o.log.Error("the server's TLS certificate could not be looked after; trying again in a minute", "error", err)
		o.due = now.Add(time.Minute)
	}
	return &o.cert, nil
}

// AdminToken gives the API token in the file at path, and makes both if the
// file is not there, or empty. The tenant is "" for a platform admin.
func (c *ControlPlane) AdminToken(ctx context.Context, path, tenant string, role store.Role) (string, error) {
	raw, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("read the admin token: %w", err)
	}
	if text := strings.TrimSpace(string(raw)); text != "" {
		return text, nil
	}
	const lifetime = 365 * 24 * time.Hour
	_, secret, err := c.Registry.CreateAPIToken(ctx, registry.System(), tenant, "first-admin", role, lifetime)
	if err != nil {
		return "", fmt.Errorf("make an admin token: %w", err)
	}
	if err := writeSecret(path, secret+"\n"); err != nil {
		return "", fmt.Errorf("write the admin token: %w", err)
	}
	return secret, nil
}

// writeSecret writes a file for its owner only. Whoever looks finds it whole or
// not at all, also after a crash: an empty file would be taken for the secret.
func writeSecret(path, content string) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // the error that counts is the other one
	}
	return err
}
