// Package agenttest runs the agent's socket in a test: real gRPC on a real unix
// socket, real attestation of the calling process, and identities from an
// authority in memory in the place of a server.
package agenttest

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/authsec-ai/icp/agent/envoysds"
	"github.com/authsec-ai/icp/agent/peer"
	"github.com/authsec-ai/icp/agent/workload"
	"github.com/authsec-ai/icp/agent/workload/unix"
	"github.com/authsec-ai/icp/agent/workloadapi"
	"github.com/authsec-ai/icp/sds"
)

// Agent is an agent's socket and what stands behind it.
type Agent struct {
	Socket    string // path
	Cache     *Cache
	Authority *Authority

	log          buffer
	attestations atomic.Int64
}

// Options adjust Start.
type Options struct {
	Meter             metric.Meter     // nil records nothing
	Now               func() time.Time // nil is the real clock
	MaxRequestsPerUID int
	SendTimeout       time.Duration
	RefuseUnissued    bool // of SDS
	PlainValidation   bool // of SDS
}

// Start serves an agent for the trust domain td until the test ends.
func Start(tb testing.TB, td string, options Options) *Agent {
	tb.Helper()
	authority := NewAuthority(tb, td)
	a := &Agent{
		Socket:    filepath.Join(socketDir(tb), "agent.sock"),
		Cache:     newCache(tb, authority),
		Authority: authority,
	}
	if options.Meter == nil {
		options.Meter = noop.Meter{}
	}
	if options.Now == nil {
		options.Now = time.Now
	}
	log := slog.New(slog.NewJSONHandler(&a.log, nil))
	api, err := workloadapi.New(workloadapi.Config{
		Attestor:          counting{workload.Attestors{"unix": unix.New()}, &a.attestations},
		Cache:             a.Cache,
		Log:               log,
		Meter:             options.Meter,
		Now:               options.Now,
		Guests:            []protoreflect.ServiceDescriptor{sds.Descriptor()},
		MaxRequestsPerUID: options.MaxRequestsPerUID,
		SendTimeout:       options.SendTimeout,
	})
	if err != nil {
		tb.Fatalf("make the Workload API: %v", err)
	}
	secrets, err := sds.New(sds.Config{
		Attestor:        envoysds.Attestor{Sessions: api.Sessions()},
		Log:             log,
		Meter:           options.Meter,
		RefuseUnissued:  options.RefuseUnissued,
		PlainValidation: options.PlainValidation,
	})
	if err != nil {
		tb.Fatalf("make the SDS: %v", err)
	}
	server := grpc.NewServer(append(api.ServerOptions(), grpc.Creds(peer.Credentials(log)))...)
	api.Register(server)
	secrets.Register(server)
	serve(tb, server, a.Socket)
	return a
}

// socketDir makes a folder that every user may enter and whose path is short
// enough for a socket.
func socketDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "icp")
	if err != nil {
		tb.Fatalf("make a folder: %v", err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) }) // a leftover in the temporary folder does no harm
	if err := os.Chmod(dir, 0o755); err != nil {
		tb.Fatalf("open the folder: %v", err)
	}
	return dir
}

func serve(tb testing.TB, server *grpc.Server, socket string) {
	tb.Helper()
	listener, err := net.Listen("unix", socket)
	if err != nil {
		tb.Fatalf("listen: %v", err)
	}
	if err := os.Chmod(socket, 0o777); err != nil {
		tb.Fatalf("open the socket: %v", err)
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	tb.Cleanup(func() {
		server.Stop()
		if err := <-done; err != nil {
			tb.Errorf("serve: %v", err)
		}
	})
}

// Addr gives the socket as SPIFFE_ENDPOINT_SOCKET spells it.
func (a *Agent) Addr() string { return "unix://" + a.Socket }

// Attestations counts the attestations so far.
func (a *Agent) Attestations() int { return int(a.attestations.Load()) }

// Log gives what the agent has logged, JSON lines.
func (a *Agent) Log() string { return a.log.String() }

// counting counts what passes through an attestor.
type counting struct {
	attestors workload.Attestors
	count     *atomic.Int64
}

func (c counting) Attest(ctx context.Context, caller *peer.Caller) (workload.Attestation, error) {
	c.count.Add(1)
	return c.attestors.Attest(ctx, caller)
}

// buffer is a bytes.Buffer for several goroutines.
type buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
