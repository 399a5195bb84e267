package workloadapi_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/authsec-ai/icp/agent/agenttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

var (
	td  = spiffeid.RequireTrustDomainFromString("dev.test")
	web = spiffeid.RequireFromPath(td, "/web")
	bot = spiffeid.RequireFromPath(td, "/bot")
)

// me is a selector that the test itself has; other is one that it has not.
var (
	me    = fmt.Sprintf("unix:uid:%d", os.Getuid())
	other = "unix:uid:4242424"
)

// start serves an agent on which the test process is entitled to ids.
func start(t testing.TB, ids ...spiffeid.ID) *agenttest.Agent {
	t.Helper()
	return startWith(t, agenttest.Options{}, ids...)
}

func startWith(t testing.TB, options agenttest.Options, ids ...spiffeid.ID) *agenttest.Agent {
	t.Helper()
	agent := agenttest.Start(t, td.Name(), options)
	for _, id := range ids {
		agent.Cache.Put(agenttest.Entry{ID: id, Selector: me})
	}
	return agent
}

func dial(t testing.TB, agent *agenttest.Agent) *grpc.ClientConn {
	t.Helper()
	return dialSocket(t, agent.Addr())
}

func dialSocket(t testing.TB, addr string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // the test is over
	return conn
}

func client(t testing.TB, agent *agenttest.Agent) workload.SpiffeWorkloadAPIClient {
	t.Helper()
	return workload.NewSpiffeWorkloadAPIClient(dial(t, agent))
}

// with gives a context that carries metadata and ends with the test.
func with(t testing.TB, pairs ...string) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return metadata.NewOutgoingContext(ctx, metadata.Pairs(pairs...))
}

// call gives the context of a proper request.
func call(t testing.TB) context.Context { return with(t, "workload.spiffe.io", "true") }

// first gives the first message of a stream.
func first[T any](stream grpc.ServerStreamingClient[T], err error) (*T, error) {
	if err != nil {
		return nil, err
	}
	return stream.Recv()
}

// next receives a message that must come.
func next[T any](t testing.TB, stream grpc.ServerStreamingClient[T]) *T {
	t.Helper()
	message, err := stream.Recv()
	if err != nil {
		t.Fatalf("receive: %v", err)
	}
	return message
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func wantCode(t testing.TB, err error, want codes.Code) {
	t.Helper()
	if got := status.Code(err); got != want {
		t.Errorf("answered %s (%v), want %s", got, err, want)
	}
}

// rpcs are the seven RPCs, each up to its first answer.
var rpcs = []struct {
	name string
	call func(context.Context, workload.SpiffeWorkloadAPIClient) error
	good codes.Code // with the header, for an entitled caller
}{
	{"FetchX509SVID", func(ctx context.Context, c workload.SpiffeWorkloadAPIClient) error {
		_, err := first(c.FetchX509SVID(ctx, &workload.X509SVIDRequest{}))
		return err
	}, codes.OK},
	{"FetchX509Bundles", func(ctx context.Context, c workload.SpiffeWorkloadAPIClient) error {
		_, err := first(c.FetchX509Bundles(ctx, &workload.X509BundlesRequest{}))
		return err
	}, codes.OK},
	{"FetchJWTSVID", func(ctx context.Context, c workload.SpiffeWorkloadAPIClient) error {
		_, err := c.FetchJWTSVID(ctx, &workload.JWTSVIDRequest{Audience: []string{"db"}})
		return err
	}, codes.OK},
	{"FetchJWTBundles", func(ctx context.Context, c workload.SpiffeWorkloadAPIClient) error {
		_, err := first(c.FetchJWTBundles(ctx, &workload.JWTBundlesRequest{}))
		return err
	}, codes.OK},
	{"ValidateJWTSVID", func(ctx context.Context, c workload.SpiffeWorkloadAPIClient) error {
		minted, err := c.FetchJWTSVID(ctx, &workload.JWTSVIDRequest{Audience: []string{"db"}})
		token := "none"
		if err == nil {
			token = minted.Svids[0].Svid
		}
		_, err = c.ValidateJWTSVID(ctx, &workload.ValidateJWTSVIDRequest{Audience: "db", Svid: token})
		return err
	}, codes.OK},
	{"FetchWITSVID", func(ctx context.Context, c workload.SpiffeWorkloadAPIClient) error {
		_, err := first(c.FetchWITSVID(ctx, &workload.WITSVIDRequest{}))
		return err
	}, codes.Unimplemented},
	{"FetchWITBundles", func(ctx context.Context, c workload.SpiffeWorkloadAPIClient) error {
		_, err := first(c.FetchWITBundles(ctx, &workload.WITBundlesRequest{}))
		return err
	}, codes.Unimplemented},
}
