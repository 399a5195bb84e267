package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/authsec-ai/icp/internal/telemetry"
	"github.com/authsec-ai/icp/policy"
	"github.com/authsec-ai/icp/proxy/head"
	"github.com/authsec-ai/icp/proxy/quota"
	"github.com/authsec-ai/icp/proxy/upstream"
)

// Deps are what a Proxy needs from its program.
type Deps struct {
	Telemetry *telemetry.Telemetry
	Now       func() time.Time
	Stdout    io.Writer // audit lines, if the configuration names no file
}

// Proxy is one AgentAuth Proxy. Call New, Listen and Run, in this order.
type Proxy struct {
	config    Config
	now       func() time.Time
	log       *slog.Logger
	telemetry *telemetry.Telemetry
	metrics   *metrics

	self        *self
	engine      *policy.Engine
	policies    policySource
	revocations atomic.Pointer[revocations]
	table       *upstream.Table
	stripper    stripper
	quota       *quota.Limiter
	memory      *memory
	trail       *trail
	peers       *peers
	buffers     sync.Pool
	gate        gate

	listener        *listener
	metricsListener net.Listener
}

// New checks the configuration and opens files that it names. It touches no
// network.
func New(config Config, deps Deps) (*Proxy, error) {
	want, err := config.check()
	if err != nil {
		return nil, fmt.Errorf("proxy configuration: %w", err)
	}
	p := &Proxy{
		config: config, now: deps.Now, log: deps.Telemetry.Log, telemetry: deps.Telemetry,
		engine: policy.NewEngine(), quota: quota.New(deps.Now), peers: newPeers(),
		memory:  newMemory(config.MaxBufferedBytes),
		buffers: sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }},
	}
	p.self = &self{want: want, log: p.log, now: deps.Now, changed: p.reverify, first: make(chan struct{})}
	if p.table, err = upstream.NewTable(config.Routes, p.self, deps.Now); err != nil {
		return nil, fmt.Errorf("proxy configuration: %w", err)
	}
	if err := p.table.CheckBuffered(p.memory.checkFits); err != nil {
		return nil, fmt.Errorf("proxy configuration: %w", err)
	}
	if p.policies, err = newPolicySource(config.Policies, p.self, p.log); err != nil {
		return nil, fmt.Errorf("proxy configuration: %w", err)
	}
	p.stripper = newStripper(p.table.Secrets())
	if p.metrics, err = newMetrics(deps.Telemetry.Meter, p.gauges()); err != nil {
		return nil, fmt.Errorf("set up the proxy's metrics: %w", err)
	}
	if p.trail, err = openTrail(config.AuditFile, deps.Stdout, p.log, p.metrics.auditDropped); err != nil {
		return nil, err
	}
	deps.Telemetry.AddCheck("svid", p.self.ready)
	deps.Telemetry.AddCheck("policies", func(ctx context.Context) error { return p.policies.State().Check(ctx) })
	return p, nil
}

func (p *Proxy) gauges() gauges {
	return gauges{
		connections: p.peers.count,
		running:     p.peers.running,
		revision: func() int64 {
			_, revision := p.engine.Revision()
			return revision
		},
		svidSeconds: func() float64 {
			current := p.self.current.Load()
			if current == nil {
				return 0
			}
			return current.notAfter.Sub(p.now()).Seconds()
		},
	}
}

// Addrs are the addresses that a Proxy listens on.
type Addrs struct {
	Proxy   net.Addr
	Metrics net.Addr // nil without a metrics listener
}

// Listen binds the addresses, so that a busy port is an error before anything
// else starts.
func (p *Proxy) Listen() (Addrs, error) {
	inner, err := net.Listen("tcp", p.config.Listen)
	if err != nil {
		return Addrs{}, fmt.Errorf("listen for callers: %w", err)
	}
	p.listener = &listener{
		inner: inner, self: p.self, peers: p.peers, revoked: p.revoked, grace: p.config.ExpiryGrace,
		now: p.now, log: telemetry.Limit(p.log, "reason"), metrics: p.metrics,
	}
	p.listener.start()
	addrs := Addrs{Proxy: inner.Addr()}
	if p.config.MetricsListen == "" {
		return addrs, nil
	}
	p.metricsListener, err = net.Listen("tcp", p.config.MetricsListen)
	if err != nil {
		_ = inner.Close() // the first error is the one to report
		return Addrs{}, fmt.Errorf("listen for health and metrics: %w", err)
	}
	addrs.Metrics = p.metricsListener.Addr()
	return addrs, nil
}

// Run serves until ctx ends, then lets running requests finish within the
// drain timeout.
func (p *Proxy) Run(ctx context.Context) error {
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group, failed := errgroup.WithContext(background)
	group.Go(func() error { return p.self.run(failed, p.config.WorkloadAPI) })
	group.Go(func() error { return p.followPolicies(failed) })
	group.Go(func() error { return p.serveMetrics(failed) })
	group.Go(func() error { return p.endStuckWrites(failed) })
	group.Go(func() error { return p.trail.run() })
	group.Go(func() error {
		defer stop() // the rest serves the requests, and ends after them
		return p.serve(ctx, failed)
	})
	return group.Wait()
}

// followPolicies keeps the engine current. The server wants to see an SVID, so
// it is not asked before there is one; without one the proxy serves nobody.
func (p *Proxy) followPolicies(ctx context.Context) error {
	if p.config.Policies.Server != "" {
		select {
		case <-ctx.Done():
			return nil
		case <-p.self.first:
		}
	}
	return p.policies.Run(ctx, sink{p})
}

// serve takes requests until ctx or failed ends, drains, and closes the audit
// trail after the last one.
func (p *Proxy) serve(ctx, failed context.Context) error {
	defer p.trail.finish()
	server := p.httpServer()
	var parts errgroup.Group
	parts.Go(func() error { return p.listener.run(context.WithoutCancel(ctx)) })
	parts.Go(func() error { return server.Serve(p.listener) })
	select {
	case <-ctx.Done():
	case <-failed.Done():
	}
	p.drain(server)
	if err := parts.Wait(); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

func (p *Proxy) httpServer() *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	return &http.Server{
		Handler:                      http.HandlerFunc(p.serveRequest),
		DisableGeneralOptionsHandler: true,
		ReadHeaderTimeout:            10 * time.Second,
		IdleTimeout:                  2 * time.Minute,
		MaxHeaderBytes:               head.MaxBytes,
		Protocols:                    protocols,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: 250,
			SendPingTimeout:      15 * time.Second,
			PingTimeout:          15 * time.Second,
			WriteByteTimeout:     p.config.IdleTimeout,
		},
		ErrorLog:    slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
		ConnContext: withCaller,
	}
}

type callerKey struct{}

func withCaller(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, callerKey{}, peerOf(conn))
}

// callerOf gives the connection that a request came on.
func callerOf(r *http.Request) *peer { return r.Context().Value(callerKey{}).(*peer) }

// drain stops accepting, waits for running requests, and cuts what is left.
func (p *Proxy) drain(server *http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), p.config.DrainTimeout)
	defer cancel()
	_ = server.Shutdown(ctx) // what is left is cut next
	left := failed(http.StatusServiceUnavailable, "shutting-down", "the proxy is shutting down")
	p.peers.shutIf(func(*peer) *refusal { return left })
	_ = server.Close()
	p.gate.close()
	p.table.Close()
}

// gate counts the requests under way, and lets none in once it is closed.
type gate struct {
	mu     sync.RWMutex
	closed bool
	inside sync.WaitGroup
}

func (g *gate) enter() bool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.closed {
		return false
	}
	g.inside.Add(1)
	return true
}

func (g *gate) leave() { g.inside.Done() }

// close waits until nobody is inside.
func (g *gate) close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.inside.Wait()
}

// serveMetrics answers health and metrics until ctx ends.
func (p *Proxy) serveMetrics(ctx context.Context) error {
	if p.metricsListener == nil {
		return nil
	}
	server := &http.Server{Handler: p.telemetry.Handler(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(p.metricsListener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve health and metrics: %w", err)
	}
	return nil
}
