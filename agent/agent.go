// Package agent is the icp-agent: one per node, it attests the node to the
// server and the processes on the node to itself, and serves them their
// identities on a unix socket.
//
// Flow 1, a workload gets its SVID: peer.Credentials → workloadapi → session
// (attestation) → cache.Subscribe → Send. Flow 5, the agent gets its own:
// Run → node.Bootstrap → upstream.Attest → saved sealed → syncer.
package agent

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/authsec-ai/icp/agent/cache"
	"github.com/authsec-ai/icp/agent/envoysds"
	"github.com/authsec-ai/icp/agent/node"
	"github.com/authsec-ai/icp/agent/node/jointoken"
	"github.com/authsec-ai/icp/agent/peer"
	"github.com/authsec-ai/icp/agent/session"
	"github.com/authsec-ai/icp/agent/syncer"
	"github.com/authsec-ai/icp/agent/upstream"
	"github.com/authsec-ai/icp/agent/workload"
	"github.com/authsec-ai/icp/agent/workloadapi"
	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/clock"
	"github.com/authsec-ai/icp/internal/telemetry"
	"github.com/authsec-ai/icp/sds"
)

// Config says what an Agent works with.
type Config struct {
	SocketPath   string             // of the Workload API and SDS, absolute
	DataDir      string             // holds the agent's sealed identity; one agent at a time
	ServerURL    string             // https://host:port
	ServerRoots  *x509.CertPool     // that the server's certificate must chain to; nil means the system's
	Attestors    workload.Attestors // of workloads; at least one
	Telemetry    *telemetry.Telemetry
	AdminAddress string // loopback host:port for health, metrics and debugging; "" for none

	// For the first attestation: a join token, or the file that has it, and the
	// node name to ask for.
	JoinToken     string
	JoinTokenFile string
	NodeName      string

	KeyFile   string        // seals the identity; "" means a file in DataDir
	JWTLeeway time.Duration // that ValidateJWTSVID tolerates
	Clock     clock.Clock   // nil means the system's
}

// Agent is one agent. Make it with New, then Run it once.
type Agent struct {
	cfg      Config
	identity *node.Identity
	client   *upstream.Client
	syncer   *syncer.Syncer
	cache    *cache.Cache
	sessions *attestations
	server   *grpc.Server

	lock   *os.File
	socket net.Listener
	admin  net.Listener // nil for none
}

// New builds an agent. It locks the data folder, takes up the saved identity,
// and opens the socket and the admin address, so that whatever is in the way is
// known before anything runs.
func New(cfg Config) (_ *Agent, err error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.System{}
	}
	a := &Agent{cfg: cfg}
	defer func() {
		if err != nil {
			a.Close()
		}
	}()
	if a.lock, err = lockFolder(cfg.DataDir); err != nil {
		return nil, err
	}
	if err := a.build(); err != nil {
		return nil, err
	}
	return a, a.listen()
}

func (c Config) check() error {
	switch {
	case c.DataDir == "":
		return errors.New("agent: a data folder is required")
	case c.ServerURL == "":
		return errors.New("agent: the server's address is required")
	case len(c.Attestors) == 0:
		return errors.New("agent: at least one workload attestor is required")
	case c.Telemetry == nil:
		return errors.New("agent: Telemetry is required")
	}
	return checkSocketPath(c.SocketPath)
}

// build makes the parts, from the inside out.
func (a *Agent) build() (err error) {
	cfg, log := a.cfg, a.cfg.Telemetry.Log
	a.identity, err = node.Load(node.Config{
		Dir: cfg.DataDir, KeyFile: cfg.KeyFile, Clock: cfg.Clock, Log: log, Changed: a.identityChanged,
		Evidence: jointoken.Evidence{Token: cfg.JoinToken, File: cfg.JoinTokenFile, NodeName: cfg.NodeName},
	})
	if err != nil {
		return err
	}
	a.client, err = upstream.New(upstream.Config{
		URL: cfg.ServerURL, Roots: cfg.ServerRoots, Certificate: a.identity.Certificate, Rejected: a.identity.Rejected,
	})
	if err != nil {
		return err
	}
	a.cache, err = cache.New(cache.Config{Signer: a.client, Clock: cfg.Clock, Log: log, Meter: cfg.Telemetry.Meter})
	if err != nil {
		return err
	}
	a.syncer, err = syncer.New(syncer.Config{Server: a.client, Cache: a.cache, Clock: cfg.Clock, Log: log})
	if err != nil {
		return err
	}
	cfg.Attestors.OnlyFor(a.cache.Asks)
	a.sessions = newAttestations(cfg.Attestors)
	a.addChecks()
	return a.buildServer()
}

// buildServer makes the gRPC server of the socket: the Workload API, and
// Envoy's SDS as its guest.
func (a *Agent) buildServer() error {
	tel, entitled := a.cfg.Telemetry, entitlements{a.cache}
	log := telemetry.Limit(tel.Log, "uid") // any process may connect, and be refused, at will
	api, err := workloadapi.New(workloadapi.Config{
		Attestor: a.sessions, Cache: entitled, Log: log, Meter: tel.Meter, Now: a.cfg.Clock.Now,
		JWTLeeway: a.cfg.JWTLeeway, Guests: []protoreflect.ServiceDescriptor{sds.Descriptor()},
	})
	if err != nil {
		return err
	}
	envoy, err := sds.New(sds.Config{Attestor: envoysds.Attestor{Sessions: api.Sessions()}, Log: log, Meter: tel.Meter})
	if err != nil {
		return err
	}
	a.server = grpc.NewServer(append(api.ServerOptions(), grpc.Creds(peer.Credentials(log)))...)
	api.Register(a.server)
	envoy.Register(a.server)
	return nil
}

// entitlements is the cache as the services on the socket see it.
type entitlements struct{ *cache.Cache }

// Subscribe watches what a process with these selectors may have.
func (e entitlements) Subscribe(selectors identity.Selectors, evidence string) session.Subscription {
	return e.Cache.Subscribe(selectors, evidence)
}

// identityChanged has the server see the agent's new SVID.
func (a *Agent) identityChanged() {
	a.client.Reconnect()
	a.syncer.Wake()
}

func (a *Agent) addChecks() {
	a.cfg.Telemetry.AddCheck("agent_identity", func(context.Context) error {
		if a.ID().IsZero() {
			return errors.New("this node has not been attested yet")
		}
		return nil
	})
	a.cfg.Telemetry.AddCheck("agent_sync", func(context.Context) error {
		if !a.cache.Ready() {
			return errors.New("the first sync with the server is not done")
		}
		return nil
	})
}

func (a *Agent) listen() (err error) {
	if a.socket, err = listenSocket(a.cfg.SocketPath); err != nil {
		return err
	}
	if a.cfg.AdminAddress == "" {
		return nil
	}
	a.admin, err = listenLoopback(a.cfg.AdminAddress)
	return err
}

// ID gives the agent's SPIFFE ID, the zero ID before the node is attested.
func (a *Agent) ID() spiffeid.ID { return a.identity.ID() }

// Ready reports whether workloads are served: the node is attested, and the
// server's state has arrived.
func (a *Agent) Ready() bool { return a.cache.Ready() }

// AdminURL gives where health, metrics and debugging are, "" for nowhere.
func (a *Agent) AdminURL() string {
	if a.admin == nil {
		return ""
	}
	return "http://" + a.admin.Addr().String()
}

// Run serves until ctx ends, or until this node's attestation is refused. It
// closes the agent.
func (a *Agent) Run(ctx context.Context) error {
	defer a.Close()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.serveSocket(ctx) })
	if a.admin != nil {
		group.Go(func() error { return a.serveAdmin(ctx) })
	}
	group.Go(func() error { return a.cache.Run(ctx) })
	group.Go(func() error {
		if err := a.identity.Bootstrap(ctx, a.client); err != nil {
			return ifRunning(ctx, err)
		}
		group.Go(func() error { return a.identity.Run(ctx, a.client) })
		return a.syncer.Run(ctx)
	})
	if err := group.Wait(); err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	return nil
}

// ifRunning gives err unless it comes from the end of ctx.
func ifRunning(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// serveSocket serves workloads. Their streams have no end of their own, so they
// are cut: clients come back to the next agent.
func (a *Agent) serveSocket(ctx context.Context) error {
	stop := context.AfterFunc(ctx, a.server.Stop)
	defer stop()
	if err := a.server.Serve(a.socket); err != nil {
		return ifRunning(ctx, fmt.Errorf("serve the Workload API: %w", err))
	}
	return nil
}

func (a *Agent) serveAdmin(ctx context.Context) error {
	server := &http.Server{Handler: a.adminHandler(), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() }) // its listener is all there is to close
	defer stop()
	if err := server.Serve(a.admin); err != nil {
		return ifRunning(ctx, fmt.Errorf("serve health and metrics: %w", err))
	}
	return nil
}

// Close gives back what New took. It is for an agent that is not run; Run does
// it by itself.
func (a *Agent) Close() {
	if a.client != nil {
		a.client.Close()
	}
	for _, l := range []net.Listener{a.socket, a.admin} {
		if l != nil {
			_ = l.Close() // it may be closed already
		}
	}
	if a.lock != nil {
		_ = a.lock.Close() // gives up the lock
	}
}
