// Package builtin is a small Workload API server that keeps to the
// specifications, with an authority in memory, and that can be told to break
// one rule. It shows that the rows pass where they should and fail where they
// should; nobody gets identities from it but the process it runs in.
package builtin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/authsec-ai/icp/cmd/spiffe-conform/internal/socket"
)

// Behaviour says what the server does otherwise than it should. The zero value
// is the server that keeps to the rules.
type Behaviour struct {
	TLS   bool // is required
	HTTP1 bool // is all that is spoken
	WIT   bool // half of the WIT profile is served

	SharedKey bool // the anchor's key signs tokens, too

	NoReflection bool
	Services     []string                                // that reflection lists; nil means all
	Describe     func(*descriptorpb.FileDescriptorProto) // edits what reflection says of the Workload API

	Unknown grpc.StreamHandler // serves methods that are not there

	// Admit decides, instead of the server, by the header's values and by
	// whether the caller has an identity. An error is a gRPC status.
	Admit func(method string, header metadata.MD, known bool) error

	// Edits of certificates before they are signed, of tokens before they are
	// signed, and of the token after.
	Leaf, Intermediate, Anchor Template
	Token                      func(header, claims map[string]any)
	Compact                    func(string) string
	JWK                        func(map[string]any) // of the own JWT key in the bundle
	JWKS                       func(map[string]any) // around it

	// Edits of what is sent; n counts the messages of a stream from 0.
	X509        func(n int, m *workload.X509SVIDResponse)
	X509Bundles func(m *workload.X509BundlesResponse)
	JWTBundles  func(m *workload.JWTBundlesResponse)
	JWT         func(request *workload.JWTSVIDRequest, m *workload.JWTSVIDResponse)
	Validate    func(request *workload.ValidateJWTSVIDRequest, m *workload.ValidateJWTSVIDResponse, err error) error
	Refuse      func(method string, request any) error // instead of serving; nil serves

	FirstMessage time.Duration // that a stream waits before it
	// Revoked is what an open stream does when the last identity goes: an error
	// ends it, nil leaves it open.
	Revoked          func() error
	EmptyWhenRevoked bool // instead, the stream sends an empty message
}

// Server serves on a socket until Close.
type Server struct {
	workload.UnimplementedSpiffeWorkloadAPIServer

	behaviour Behaviour
	authority *authority
	address   socket.Address
	serve     sync.WaitGroup
	stop      func()

	mu      sync.Mutex
	svids   []identity    // none when revoked
	changed chan struct{} // closed at each change
}

// Start serves on the unix socket at path.
func Start(path string, b Behaviour) (*Server, error) {
	address, err := socket.ParseAddress("unix://" + path)
	if err != nil {
		return nil, err
	}
	authority, err := newAuthority(b)
	if err != nil {
		return nil, err
	}
	s := &Server{behaviour: b, authority: authority, address: address, changed: make(chan struct{})}
	if s.svids, err = authority.identities(); err != nil {
		return nil, err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("open the socket: %w", err)
	}
	if b.HTTP1 {
		return s, s.serveHTTP1(listener)
	}
	return s, s.serveGRPC(listener)
}

// Address is where the server serves.
func (s *Server) Address() socket.Address { return s.address }

// Close ends all streams and waits.
func (s *Server) Close() {
	s.stop()
	s.serve.Wait()
}

func (s *Server) serveHTTP1(listener net.Listener) error {
	server := &http.Server{Handler: http.NotFoundHandler(), ReadHeaderTimeout: time.Minute}
	s.stop = func() { _ = server.Close() } // there is nothing to be done about it
	s.serve.Go(func() { _ = server.Serve(listener) })
	return nil
}

func (s *Server) serveGRPC(listener net.Listener) error {
	options := []grpc.ServerOption{
		grpc.Creds(s.authority.transport(s.behaviour.TLS)),
		grpc.UnaryInterceptor(s.unary),
		grpc.StreamInterceptor(s.stream),
	}
	if s.behaviour.Unknown != nil {
		options = append(options, grpc.UnknownServiceHandler(s.behaviour.Unknown))
	}
	server := grpc.NewServer(options...)
	workload.RegisterSpiffeWorkloadAPIServer(server, s)
	if err := s.registerReflection(server); err != nil {
		return errors.Join(err, listener.Close())
	}
	s.stop = server.Stop
	s.serve.Go(func() { _ = server.Serve(listener) }) // ends with Stop
	return nil
}

func (s *Server) unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if err := s.admit(ctx, info.FullMethod, request); err != nil {
		return nil, err
	}
	return handler(ctx, request)
}

func (s *Server) stream(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if err := s.admit(stream.Context(), info.FullMethod, nil); err != nil {
		return err
	}
	return handler(server, stream)
}

// admit is the border that every request passes: the header, then who calls.
func (s *Server) admit(ctx context.Context, method string, request any) error {
	header, _ := metadata.FromIncomingContext(ctx)
	decide := s.behaviour.Admit
	if decide == nil {
		decide = Admit
	}
	if err := decide(method, header, s.knows(ctx)); err != nil {
		return err
	}
	if s.behaviour.Refuse != nil {
		return s.behaviour.Refuse(method, request)
	}
	return nil
}

// Admit is how the server decides by itself.
func Admit(method string, header metadata.MD, known bool) error {
	if values := header.Get(socket.HeaderKey); len(values) != 1 || values[0] != "true" {
		return status.Errorf(codes.InvalidArgument, "the request needs %s: true", socket.HeaderKey)
	}
	if !known && IsWorkloadAPI(method) {
		return status.Error(codes.PermissionDenied, "this process has no identity")
	}
	return nil
}

// knows says whether the caller is this process and has identities. A caller
// over TLS can't be told and counts as known.
func (s *Server) knows(ctx context.Context) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	from, ok := peer.FromContext(ctx)
	if !ok || len(s.svids) == 0 {
		return false
	}
	if _, tls := from.AuthInfo.(credentials.TLSInfo); tls {
		return true
	}
	caller, ok := from.AuthInfo.(process)
	return ok && int(caller.pid) == os.Getpid()
}

// Rotate issues all certificates anew.
func (s *Server) Rotate(context.Context) error {
	svids, err := s.authority.identities()
	if err != nil {
		return err
	}
	s.change(svids)
	return nil
}

// Revoke takes all identities away.
func (s *Server) Revoke(context.Context) error {
	s.change(nil)
	return nil
}

func (s *Server) change(svids []identity) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.svids = svids
	close(s.changed)
	s.changed = make(chan struct{})
}

// now gives the identities, and what is closed when they change.
func (s *Server) now() ([]identity, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.svids, s.changed
}
