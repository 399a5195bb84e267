package server

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/authsec-ai/icp/internal/telemetry"
	"github.com/authsec-ai/icp/server/ca"
	"github.com/authsec-ai/icp/server/keys/disk"
	"github.com/authsec-ai/icp/server/nodes"
	"github.com/authsec-ai/icp/server/nodes/jointoken"
	"github.com/authsec-ai/icp/server/servertls"
	"github.com/authsec-ai/icp/server/store/sqlite"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testConfig is complete; its store closes with the test.
func testConfig(t *testing.T) (Config, *tls.Config) {
	t.Helper()
	st, err := sqlite.Open(context.Background(), filepath.Join(t.TempDir(), "icp.db"), sqlite.Options{})
	check(t, err)
	t.Cleanup(func() { check(t, st.Close()) })
	tel, err := telemetry.New("test", io.Discard, slog.LevelError)
	check(t, err)
	custody, err := disk.Open(filepath.Join(t.TempDir(), "keys"))
	check(t, err)
	authority, err := ca.New(ca.Config{Store: st, Custody: custody, Now: time.Now, Rand: rand.Reader, Log: tel.Log, Meter: tel.Meter})
	check(t, err)
	t.Cleanup(authority.Close)
	cert, caFile, err := servertls.LoadOrCreate(t.TempDir(), []string{"127.0.0.1"}, time.Now())
	check(t, err)
	pem, err := os.ReadFile(caFile)
	check(t, err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	return Config{
		Listen: "127.0.0.1:0", Store: st, CA: authority, Telemetry: tel, Now: time.Now, Random: rand.Reader,
		Verifiers:      map[string]nodes.Verifier{jointoken.Method: jointoken.Verifier{Tokens: st}},
		TLSCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &cert, nil },
	}, &tls.Config{RootCAs: roots}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// start runs s and gives its address; the function given stops it.
func start(t *testing.T, s *Server) (addr string, stop func() error) {
	t.Helper()
	a, err := s.Listen()
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	return a.String(), func() error { cancel(); return <-ended }
}

func TestNewRefusesNonsense(t *testing.T) {
	for name, spoil := range map[string]func(*Config){
		"no store":       func(c *Config) { c.Store = nil },
		"no CA":          func(c *Config) { c.CA = nil },
		"no certificate": func(c *Config) { c.TLSCertificate = nil },
		"no clock":       func(c *Config) { c.Now = nil },
		"no randomness":  func(c *Config) { c.Random = nil },
		"no telemetry":   func(c *Config) { c.Telemetry = nil },
		"no verifier":    func(c *Config) { c.Verifiers = nil },
		"negative grace": func(c *Config) { c.ReattestGrace = -1 },
	} {
		t.Run(name, func(t *testing.T) {
			cfg, _ := testConfig(t)
			spoil(&cfg)
			if _, err := New(cfg); err == nil {
				t.Error("accepted")
			}
		})
	}
}

func TestPortBusy(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer taken.Close()
	cfg, _ := testConfig(t)
	cfg.Listen = taken.Addr().String()
	s, err := New(cfg)
	check(t, err)
	if _, err := s.Listen(); err == nil || !strings.Contains(err.Error(), cfg.Listen) {
		t.Errorf("got %v, want an error that names %s", err, cfg.Listen)
	}
}

// TestSlowClients is T-47: whoever is slow is cut off, by the deadlines that
// newHTTPServer sets; the test makes them short.
func TestSlowClients(t *testing.T) {
	cfg, clientTLS := testConfig(t)
	s, err := New(cfg)
	check(t, err)
	if s.http.ReadHeaderTimeout <= 0 || s.http.ReadTimeout <= 0 || s.http.WriteTimeout <= 0 || s.http.IdleTimeout <= 0 {
		t.Fatalf("a deadline is missing: %+v", s.http)
	}
	s.http.ReadHeaderTimeout, s.http.ReadTimeout = 200*time.Millisecond, 400*time.Millisecond
	addr, stop := start(t, s)
	for name, send := range map[string]string{
		"T-47/slow header": "GET /healthz HTTP/1.1\r\nHost: x\r\nX-",
		"T-47/slow body":   "POST /api/v1/agent/attest HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := tls.Dial("tcp", addr, clientTLS)
			check(t, err)
			defer conn.Close()
			_, err = fmt.Fprint(conn, send)
			check(t, err)
			check(t, conn.SetReadDeadline(time.Now().Add(15*time.Second)))
			if _, err := io.Copy(io.Discard, conn); err != nil {
				t.Errorf("the server waited on: %v", err)
			}
		})
	}
	t.Run("T-47/slow handshake", func(t *testing.T) {
		conn, err := net.Dial("tcp", addr)
		check(t, err)
		defer conn.Close()
		check(t, conn.SetReadDeadline(time.Now().Add(15*time.Second)))
		if _, err := io.Copy(io.Discard, conn); err != nil {
			t.Errorf("the server waited on: %v", err)
		}
	})
	t.Run("T-47/twin", func(t *testing.T) {
		conn, err := tls.Dial("tcp", addr, clientTLS)
		check(t, err)
		defer conn.Close()
		_, err = fmt.Fprint(conn, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
		check(t, err)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		check(t, err)
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("status %d", resp.StatusCode)
		}
	})
	check(t, stop())
}
