package socket

import (
	"context"
	"fmt"
	"net"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

// HeaderKey is the metadata that every request carries, with the value "true"
// (SPIFFE Workload Endpoint section 3).
const HeaderKey = "workload.spiffe.io"

const maxMessage = 64 << 20

// Client is one connection. It adds no header by itself: see Proper.
type Client struct {
	workload.SpiffeWorkloadAPIClient
	conn *grpc.ClientConn
}

// Open makes a client, without TLS and without any credential. It connects with
// the first call.
func Open(address Address) (*Client, error) {
	conn, err := grpc.NewClient("passthrough:///endpoint",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithAuthority("localhost"),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return address.Dial(ctx) }),
	)
	if err != nil {
		return nil, fmt.Errorf("prepare a client of %s: %w", address, err)
	}
	return &Client{SpiffeWorkloadAPIClient: workload.NewSpiffeWorkloadAPIClient(conn), conn: conn}, nil
}

// Close ends the connection and all that runs on it.
func (c *Client) Close() error { return c.conn.Close() }

// Proper gives a context whose requests carry the header as they must.
func Proper(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, HeaderKey, "true")
}

// Unknown calls a method that no specification knows, with an empty message.
func (c *Client) Unknown(ctx context.Context, method string) error {
	return c.conn.Invoke(ctx, method, &workload.X509SVIDRequest{}, &workload.X509SVIDResponse{})
}

// Method is one RPC of the Workload API with a request that is in order.
type Method struct {
	Name string
	WIT  bool // of the optional WIT-SVID profile
	// Identity says that the RPC hands out identities, so that a caller without
	// one is refused.
	Identity bool
	// Call makes the request; of a stream it takes the first message. Its error
	// is a gRPC status.
	Call func(ctx context.Context, c *Client) error
}

// Audience is the one for which tokens are asked.
const Audience = "spiffe-conform"

// Methods lists the seven RPCs. The token is what ValidateJWTSVID is shown.
func Methods(token string) []Method {
	return []Method{
		{Name: "FetchX509SVID", Identity: true, Call: func(ctx context.Context, c *Client) error {
			return second(First(ctx, c.FetchX509SVID, &workload.X509SVIDRequest{}))
		}},
		{Name: "FetchX509Bundles", Call: func(ctx context.Context, c *Client) error {
			return second(First(ctx, c.FetchX509Bundles, &workload.X509BundlesRequest{}))
		}},
		{Name: "FetchJWTSVID", Identity: true, Call: func(ctx context.Context, c *Client) error {
			return second(c.FetchJWTSVID(ctx, &workload.JWTSVIDRequest{Audience: []string{Audience}}))
		}},
		{Name: "FetchJWTBundles", Call: func(ctx context.Context, c *Client) error {
			return second(First(ctx, c.FetchJWTBundles, &workload.JWTBundlesRequest{}))
		}},
		{Name: "ValidateJWTSVID", Call: func(ctx context.Context, c *Client) error {
			return second(c.ValidateJWTSVID(ctx, &workload.ValidateJWTSVIDRequest{Audience: Audience, Svid: token}))
		}},
		{Name: "FetchWITSVID", WIT: true, Identity: true, Call: func(ctx context.Context, c *Client) error {
			return second(First(ctx, c.FetchWITSVID, &workload.WITSVIDRequest{}))
		}},
		{Name: "FetchWITBundles", WIT: true, Call: func(ctx context.Context, c *Client) error {
			return second(First(ctx, c.FetchWITBundles, &workload.WITBundlesRequest{}))
		}},
	}
}

func second[T any](_ T, err error) error { return err }

// First opens a stream, takes its first message and closes it.
func First[Q, A any](ctx context.Context, open func(context.Context, *Q, ...grpc.CallOption) (grpc.ServerStreamingClient[A], error), request *Q) (*A, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := open(ctx, request)
	if err != nil {
		return nil, err
	}
	return stream.Recv()
}
