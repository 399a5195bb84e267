// Package server is the control plane: it puts registry, CA, node attestation
// and API together behind one TLS port.
//
// Only a client that offers the ALPN name wire.ALPN is asked for a certificate,
// so that browsers and curl never are. What a certificate proves is decided per
// request by package authn, because an agent whose SVID has expired must still
// be able to renew it.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/authsec-ai/icp/internal/telemetry"
	"github.com/authsec-ai/icp/internal/wire"
	"github.com/authsec-ai/icp/server/api"
	"github.com/authsec-ai/icp/server/authn"
	"github.com/authsec-ai/icp/server/ca"
	"github.com/authsec-ai/icp/server/nodes"
	"github.com/authsec-ai/icp/server/registry"
	"github.com/authsec-ai/icp/server/store"
)

// Config is what a Server is made of. All of it is required but the fields that
// say what their zero value means.
type Config struct {
	Listen         string // address of the TLS port, such as "127.0.0.1:8443"
	Store          store.Store
	CA             *ca.CA
	Verifiers      map[string]nodes.Verifier // node attestation methods
	TLSCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	Telemetry      *telemetry.Telemetry
	Now            func() time.Time
	Random         io.Reader

	ReattestGrace time.Duration // how long an expired agent SVID can be renewed; 0 means 7 days
	Heartbeat     time.Duration // of streams; 0 means wire.Heartbeat
	PruneEvery    time.Duration // 0 means 10 minutes
	DrainTimeout  time.Duration // for requests in flight at the end; 0 means 10 s
}

// Server is a control plane that can be run once.
type Server struct {
	// Registry is what the API writes through, for programs that write without it.
	Registry *registry.Registry

	cfg      Config
	http     *http.Server
	listener net.Listener
	drain    context.CancelFunc // ends streams
}

// New wires the parts and refuses an incomplete Config.
func New(cfg Config) (*Server, error) {
	if cfg.TLSCertificate == nil {
		return nil, errors.New("server: a TLS certificate is required")
	}
	if cfg.Store == nil || cfg.CA == nil || cfg.Telemetry == nil || cfg.Now == nil || cfg.Random == nil {
		return nil, errors.New("server: Store, CA, Telemetry, Now and Random are all required")
	}
	cfg = withDefaults(cfg)
	draining, drain := context.WithCancel(context.Background())
	reg, handler, err := newHandler(cfg, draining)
	if err != nil {
		drain()
		return nil, err
	}
	return &Server{Registry: reg, cfg: cfg, http: newHTTPServer(cfg, handler), drain: drain}, nil
}

func withDefaults(cfg Config) Config {
	if cfg.Heartbeat == 0 {
		cfg.Heartbeat = wire.Heartbeat
	}
	if cfg.PruneEvery == 0 {
		cfg.PruneEvery = 10 * time.Minute
	}
	if cfg.DrainTimeout == 0 {
		cfg.DrainTimeout = 10 * time.Second
	}
	return cfg
}

func newHandler(cfg Config, draining context.Context) (*registry.Registry, http.Handler, error) {
	reg, err := registry.New(registry.Config{Store: cfg.Store, CA: cfg.CA, Now: cfg.Now, Random: cfg.Random})
	if err != nil {
		return nil, nil, err
	}
	auth, err := authn.New(authn.Config{Store: cfg.Store, Bundles: cfg.CA, Now: cfg.Now, ReattestGrace: cfg.ReattestGrace})
	if err != nil {
		return nil, nil, err
	}
	service, err := nodes.New(nodes.Config{Store: cfg.Store, Signer: cfg.CA, Verifiers: cfg.Verifiers, Now: cfg.Now})
	if err != nil {
		return nil, nil, err
	}
	handler, err := api.New(api.Config{
		Store: cfg.Store, Registry: reg, Authn: auth, Nodes: service, CA: cfg.CA, Telemetry: cfg.Telemetry,
		Now: cfg.Now, Random: cfg.Random, Draining: draining, Heartbeat: cfg.Heartbeat,
	})
	return reg, handler, err
}

// newHTTPServer sets every deadline that keeps a slow or hostile client from
// holding what others need. Streams set their own, frame by frame.
func newHTTPServer(cfg Config, handler http.Handler) *http.Server {
	return &http.Server{
		Handler:           handler,
		TLSConfig:         tlsConfig(cfg.TLSCertificate),
		ReadHeaderTimeout: 10 * time.Second, // the TLS handshake, too
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: 128},
		ErrorLog:          log.New(slogWriter{cfg.Telemetry.Log}, "", 0),
	}
}

// slogWriter takes what net/http has to say about single connections.
type slogWriter struct{ log *slog.Logger }

func (w slogWriter) Write(p []byte) (int, error) {
	w.log.Debug("http", "message", string(p))
	return len(p), nil
}

// Listen opens the port and gives its address. Connections wait until Run.
func (s *Server) Listen() (net.Addr, error) {
	l, err := net.Listen("tcp", s.cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", s.cfg.Listen, err)
	}
	s.listener = l
	return l.Addr(), nil
}

// Run serves until ctx ends, then lets requests in flight finish. It listens
// first if Listen was not called.
func (s *Server) Run(ctx context.Context) error {
	if s.listener == nil {
		if _, err := s.Listen(); err != nil {
			return err
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(s.serve)
	group.Go(func() error { return s.prune(ctx) })
	group.Go(func() error {
		<-ctx.Done()
		return s.shutdown()
	})
	return group.Wait()
}

func (s *Server) serve() error {
	if err := s.http.ServeTLS(s.listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve on %s: %w", s.listener.Addr(), err)
	}
	return nil
}

// shutdown ends streams, waits for requests, and cuts what remains.
func (s *Server) shutdown() error {
	s.drain()
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.DrainTimeout)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = s.http.Close()
	}
	if err != nil {
		return fmt.Errorf("stop serving: %w", err)
	}
	return nil
}

// prune drops records of what has expired, so that nobody has to clean up.
func (s *Server) prune(ctx context.Context) error {
	tick := time.NewTicker(s.cfg.PruneEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := s.cfg.Store.Prune(ctx, s.cfg.Now()); err != nil && ctx.Err() == nil {
			s.cfg.Telemetry.Log.Error("expired records could not be dropped; trying again later", "error", err)
		}
	}
}
