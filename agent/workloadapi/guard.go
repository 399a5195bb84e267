package workloadapi

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/authsec-ai/icp/agent/peer"
	"github.com/authsec-ai/icp/identity"
)

const (
	headerKey = "workload.spiffe.io" // SPIFFE Workload Endpoint section 4
	maxHeader = 16 << 10             // bytes of a request's metadata
	maxMsg    = 1 << 20              // bytes of a request; a token is under 16 KiB

	defaultMaxRequests = 10_000
	defaultSendTimeout = 10 * time.Second
)

// guard stands before every service on the socket.
type guard struct {
	log         *slog.Logger
	guests      []string // "/package.Service/" prefixes that need no header
	maxRequests int
	sendTimeout time.Duration

	mu       sync.Mutex
	underWay map[uint32]int // requests by uid

	requests metric.Int64Counter
	streams  metric.Int64UpDownCounter
	labels   sync.Map // label → metric.MeasurementOption
}

func newGuard(cfg Config) (*guard, error) {
	g := &guard{
		log:         cfg.Log,
		maxRequests: cfg.MaxRequestsPerUID,
		sendTimeout: cfg.SendTimeout,
		underWay:    map[uint32]int{},
	}
	if g.maxRequests == 0 {
		g.maxRequests = defaultMaxRequests
	}
	if g.sendTimeout == 0 {
		g.sendTimeout = defaultSendTimeout
	}
	for _, guest := range cfg.Guests {
		g.guests = append(g.guests, "/"+string(guest.FullName())+"/")
	}
	var err error
	g.requests, err = cfg.Meter.Int64Counter("icp_agent_rpcs",
		metric.WithDescription("RPCs on the agent's socket that have ended, by method and gRPC code"))
	if err != nil {
		return nil, fmt.Errorf("workload API: make the RPC counter: %w", err)
	}
	g.streams, err = cfg.Meter.Int64UpDownCounter("icp_agent_streams",
		metric.WithDescription("Streams open on the agent's socket, by method"))
	if err != nil {
		return nil, fmt.Errorf("workload API: make the stream gauge: %w", err)
	}
	return g, nil
}

// ServerOptions gives what a gRPC server on the agent's socket is made with,
// beside the transport credentials of agent/peer.
func (s *Server) ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(s.guard.unary),
		grpc.ChainStreamInterceptor(s.guard.stream),
		grpc.MaxConcurrentStreams(uint32(s.guard.maxRequests)),
		grpc.MaxHeaderListSize(maxHeader),
		grpc.MaxRecvMsgSize(maxMsg),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: time.Minute, Timeout: 20 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	}
}

func (g *guard) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	leave, err := g.enter(ctx, info.FullMethod)
	if err != nil {
		return nil, g.answer(ctx, info.FullMethod, err)
	}
	defer leave()
	resp, err := handler(ctx, req)
	return resp, g.answer(ctx, info.FullMethod, err)
}

func (g *guard) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	ctx := stream.Context()
	leave, err := g.enter(ctx, info.FullMethod)
	if err != nil {
		return g.answer(ctx, info.FullMethod, err)
	}
	defer leave()
	method := g.label(label{method: info.FullMethod})
	g.streams.Add(ctx, 1, method)
	defer g.streams.Add(ctx, -1, method)
	err = handler(srv, &timedStream{ServerStream: stream, limit: g.sendTimeout})
	return g.answer(ctx, info.FullMethod, err)
}

// enter lets a request in, or says why not. The caller calls leave at its end.
func (g *guard) enter(ctx context.Context, method string) (leave func(), err error) {
	if err := g.checkHeader(ctx, method); err != nil {
		return nil, err
	}
	caller, ok := peer.FromContext(ctx)
	if !ok {
		return nil, identity.Errorf(identity.Denied,
			"the kernel does not name the calling process; connect to the agent's unix socket directly")
	}
	return g.count(caller.UID)
}

// checkHeader demands the header that a browser or a confused HTTP client does
// not send (SPIFFE Workload Endpoint section 4).
func (g *guard) checkHeader(ctx context.Context, method string) error {
	for _, guest := range g.guests {
		if strings.HasPrefix(method, guest) {
			return nil
		}
	}
	md, _ := metadata.FromIncomingContext(ctx)
	if values := md.Get(headerKey); len(values) == 1 && values[0] == "true" {
		return nil
	}
	return identity.Errorf(identity.Invalid, `the request needs the metadata %q with the one value "true"`, headerKey)
}

func (g *guard) count(uid uint32) (leave func(), err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.underWay[uid] >= g.maxRequests {
		return nil, identity.Errorf(identity.RateLimited,
			"uid %d has %d requests under way, which is the limit; close streams that are not needed", uid, g.maxRequests)
	}
	g.underWay[uid]++
	return func() { g.uncount(uid) }, nil
}

func (g *guard) uncount(uid uint32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.underWay[uid]--; g.underWay[uid] == 0 {
		delete(g.underWay, uid)
	}
}

// answer turns what a handler returned into the status that the caller gets,
// and counts and logs it.
func (g *guard) answer(ctx context.Context, method string, err error) error {
	st := statusOf(err)
	g.requests.Add(ctx, 1, g.label(label{method, st.Code().String()}))
	if level, ok := logLevels[st.Code()]; ok {
		g.log.LogAttrs(ctx, level, "request refused", refusal(ctx, method, st, err)...)
	}
	return st.Err()
}

// label is what a measurement is told apart by; code may be absent.
type label struct{ method, code string }

// label makes each label's attributes once: methods and codes are few, and
// sorting and hashing attributes would be a tenth of a warm request.
func (g *guard) label(l label) metric.MeasurementOption {
	if made, ok := g.labels.Load(l); ok {
		return made.(metric.MeasurementOption)
	}
	attributes := []attribute.KeyValue{attribute.String("method", l.method)}
	if l.code != "" {
		attributes = append(attributes, attribute.String("code", l.code))
	}
	made := metric.WithAttributeSet(attribute.NewSet(attributes...))
	g.labels.Store(l, made)
	return made
}

// logLevels names the codes that leave a line in the log. A refusal is one
// line; a caller that went away is none.
var logLevels = map[codes.Code]slog.Level{
	codes.InvalidArgument:    slog.LevelWarn,
	codes.PermissionDenied:   slog.LevelWarn,
	codes.Unauthenticated:    slog.LevelWarn,
	codes.ResourceExhausted:  slog.LevelWarn,
	codes.FailedPrecondition: slog.LevelWarn,
	codes.NotFound:           slog.LevelWarn,
	codes.Unavailable:        slog.LevelInfo,
	codes.Unknown:            slog.LevelError,
	codes.Internal:           slog.LevelError,
}

func refusal(ctx context.Context, method string, st *status.Status, err error) []slog.Attr {
	attrs := []slog.Attr{
		slog.String("method", method),
		slog.String("code", st.Code().String()),
		slog.String("reason", err.Error()),
	}
	if caller, ok := peer.FromContext(ctx); ok {
		attrs = append(attrs, slog.Int("pid", int(caller.PID)),
			slog.Uint64("uid", uint64(caller.UID)), slog.Uint64("gid", uint64(caller.GID)))
	}
	return attrs
}

// timedStream gives up on a client that does not read.
type timedStream struct {
	grpc.ServerStream
	limit time.Duration
}

// SendMsg sends m. A client that makes no room within the limit loses its
// stream: the handler returns, which cancels the stream and so ends the send
// that still waits in the goroutine here.
func (t *timedStream) SendMsg(m any) error {
	sent := make(chan error, 1)
	go func() { sent <- t.ServerStream.SendMsg(m) }()
	timer := time.NewTimer(t.limit)
	defer timer.Stop()
	select {
	case err := <-sent:
		return err
	case <-timer.C:
		return identity.Errorf(identity.RateLimited,
			"the client did not read a message within %s; read the stream, or close it", t.limit)
	}
}
