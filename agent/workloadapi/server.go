// Package workloadapi serves the SPIFFE Workload API: X.509-SVIDs, JWT-SVIDs
// and the bundles to verify those of others, to whichever process is calling.
//
// A request passes three borders in this order: the SPIFFE header (before
// anything is done for the caller), the limits of the caller's uid, and the
// attestation of the calling process. The first two are interceptors of this
// package, for every service on the socket; the third is agent/session.
package workloadapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.opentelemetry.io/otel/metric"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/authsec-ai/icp/agent/cache"
	"github.com/authsec-ai/icp/agent/session"
	"github.com/authsec-ai/icp/identity"
)

// Cache is what the Workload API needs of the agent's cache.
type Cache interface {
	session.Cache
	// FetchJWT gives one JWT-SVID per identity that the selectors are entitled
	// to, or only that of id unless it is zero. No such identity is an
	// *identity.Error with Code Denied.
	FetchJWT(ctx context.Context, selectors identity.Selectors, evidence string,
		id spiffeid.ID, audience []string) ([]cache.JWTSVID, error)
}

// Config says what a Server works with.
type Config struct {
	Attestor session.Attestor
	Cache    Cache
	Log      *slog.Logger
	Meter    metric.Meter
	Now      func() time.Time

	// JWTLeeway is the clock difference that ValidateJWTSVID tolerates, at most
	// one minute.
	JWTLeeway time.Duration
	// Guests are the services of other standards on the same socket. Reflection
	// shows them, and they are not asked for the SPIFFE header.
	Guests []protoreflect.ServiceDescriptor
	// MaxRequestsPerUID bounds the requests under way, open streams included,
	// of one uid; 0 means 10,000.
	MaxRequestsPerUID int
	// SendTimeout bounds how long a client may take to make room for one
	// message; 0 means 10 s.
	SendTimeout time.Duration
}

// Server is the Workload API.
type Server struct {
	workload.UnimplementedSpiffeWorkloadAPIServer // answers the WIT-SVID RPCs

	sessions *session.Opener
	cache    Cache
	log      *slog.Logger
	now      func() time.Time
	leeway   time.Duration
	guard    *guard
	shown    *protoregistry.Files
	services map[string]grpc.ServiceInfo
}

// New gives a Server for cfg.
func New(cfg Config) (*Server, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	sessions, err := session.NewOpener(cfg.Attestor, cfg.Cache)
	if err != nil {
		return nil, err
	}
	guard, err := newGuard(cfg)
	if err != nil {
		return nil, err
	}
	s := &Server{
		sessions: sessions,
		cache:    cfg.Cache,
		log:      cfg.Log,
		now:      cfg.Now,
		leeway:   cfg.JWTLeeway,
		guard:    guard,
	}
	s.services, s.shown, err = reflected(cfg.Guests)
	if err != nil {
		return nil, fmt.Errorf("workload API: prepare reflection: %w", err)
	}
	return s, nil
}

const maxLeeway = time.Minute

func (c Config) check() error {
	switch {
	case c.Attestor == nil, c.Cache == nil, c.Log == nil, c.Meter == nil, c.Now == nil:
		return errors.New("workload API: Attestor, Cache, Log, Meter and Now are required")
	case c.JWTLeeway < 0 || c.JWTLeeway > maxLeeway:
		return fmt.Errorf("workload API: a JWT leeway of %s is not between 0 and %s", c.JWTLeeway, maxLeeway)
	case c.MaxRequestsPerUID < 0:
		return fmt.Errorf("workload API: %d requests per uid is negative", c.MaxRequestsPerUID)
	case c.SendTimeout < 0:
		return fmt.Errorf("workload API: a send timeout of %s is negative", c.SendTimeout)
	}
	return nil
}

// Sessions opens sessions for other services on the same socket.
func (s *Server) Sessions() *session.Opener { return s.sessions }

// Register adds the Workload API, and reflection of what the socket serves, to
// a gRPC server that was made with ServerOptions.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	workload.RegisterSpiffeWorkloadAPIServer(r, s)
	s.registerReflection(r)
}
