package conform

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/authsec-ai/icp/cmd/spiffe-conform/internal/socket"
)

// changeRows look at an open stream while the caller's identities change.
func changeRows() []Row {
	return []Row{
		{ID: "WLAPI-03", Level: Must, Wants: "each message of a stream is the complete state", order: rotates, check: completeAfterChange},
		{ID: "WLAPI-17", Level: Should, Wants: "a stream ends with PermissionDenied when the last identity goes", order: revokes, check: endsWhenRevoked},
		{ID: "WLAPI-27", Level: Should, Wants: "identities keep their order, also across the messages of a stream", order: rotates, check: keepsOrder},
	}
}

const (
	onRotate = needsControl("--on-rotate")
	onRevoke = needsControl("--on-revoke")
)

type x509Stream = grpc.ServerStreamingClient[workload.X509SVIDResponse]

// watch opens a stream and takes its first message. The caller calls cancel.
func (p *probe) watch(ctx context.Context) (stream x509Stream, first *workload.X509SVIDResponse, cancel context.CancelFunc, err error) {
	if _, err := p.svids(); err != nil {
		return nil, nil, nil, err
	}
	ctx, cancel = context.WithTimeout(socket.Proper(ctx), 2*p.Timeout) // for the command, and for the change
	if stream, err = p.client.FetchX509SVID(ctx, &workload.X509SVIDRequest{}); err == nil {
		first, err = stream.Recv()
	}
	if err != nil {
		cancel()
		return nil, nil, nil, fmt.Errorf("open a stream: %w", err)
	}
	return stream, first, cancel, nil
}

// rotated changes an identity and gives the messages before and after.
func (p *probe) rotated(ctx context.Context) (before, after *workload.X509SVIDResponse, err error) {
	if p.Rotate == nil {
		return nil, nil, onRotate
	}
	stream, before, cancel, err := p.watch(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer cancel()
	if err := p.act(ctx, p.Rotate); err != nil {
		return nil, nil, fmt.Errorf("rotate: %w", err)
	}
	for {
		after, err = stream.Recv()
		if err != nil {
			return nil, nil, fmt.Errorf("after the rotation, the stream gives %w", err)
		}
		if changed(before, after) {
			return before, after, nil
		}
	}
}

// act changes this process's identities, within the time that an answer has.
func (p *probe) act(ctx context.Context, change func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()
	return change(ctx)
}

// changed says whether a message shows another certificate than the one before.
func changed(before, after *workload.X509SVIDResponse) bool {
	return !slices.EqualFunc(before.GetSvids(), after.GetSvids(), func(a, b *workload.X509SVID) bool {
		return bytes.Equal(a.GetX509Svid(), b.GetX509Svid())
	})
}

// completeAfterChange holds the message that came of a change against the first
// one of a fresh stream, which knows nothing of earlier messages.
func completeAfterChange(ctx context.Context, p *probe) (string, error) {
	_, after, err := p.rotated(ctx)
	if err != nil {
		return "", err
	}
	fresh := ask(ctx, p, p.fetchX509)
	if fresh.err != nil {
		return "", fmt.Errorf("a fresh stream gives %w", fresh.err)
	}
	if got, want := identities(after), identities(fresh.message); !slices.Equal(got, want) {
		return "", fmt.Errorf("the message after the change has %q, a fresh stream %q", got, want)
	}
	for _, svid := range after.GetSvids() {
		if _, err := readChain(svid); err != nil {
			return "", fmt.Errorf("in the message after the change, %w", err)
		}
	}
	got, want := after.GetFederatedBundles(), fresh.message.GetFederatedBundles()
	if !sameSet(keysOf(got), keysOf(want)) {
		return "", fmt.Errorf("the message after the change has federated bundles %q, a fresh stream %q", keysOf(got), keysOf(want))
	}
	return fmt.Sprintf("%d SVIDs and %d federated bundles after the change", len(after.GetSvids()), len(got)), nil
}

// identities gives the IDs of a message in their order.
func identities(message *workload.X509SVIDResponse) []string {
	ids := make([]string, 0, len(message.GetSvids()))
	for _, svid := range message.GetSvids() {
		ids = append(ids, svid.GetSpiffeId())
	}
	return ids
}

const freshStreams = 10

func keepsOrder(ctx context.Context, p *probe) (string, error) {
	svids, err := p.svids()
	if err != nil {
		return "", err
	}
	want := identities(p.x509.message)
	for range freshStreams {
		fresh := ask(ctx, p, p.fetchX509)
		if fresh.err != nil {
			return "", fmt.Errorf("a fresh stream gives %w", fresh.err)
		}
		if got := identities(fresh.message); !slices.Equal(got, want) {
			return "", fmt.Errorf("the order was %q, now it is %q", want, got)
		}
	}
	if len(svids) < 2 {
		return "", notSeen("this caller has one identity; register a second, and order can be seen")
	}
	before, after, err := p.rotated(ctx)
	if err != nil {
		return "", err
	}
	if got, want := identities(after), identities(before); !slices.Equal(got, want) {
		return "", fmt.Errorf("on the stream the order was %q, after the change it is %q", want, got)
	}
	return fmt.Sprintf("%d identities, over %d streams and a change", len(svids), freshStreams), nil
}

func endsWhenRevoked(ctx context.Context, p *probe) (string, error) {
	if p.Revoke == nil {
		return "", onRevoke
	}
	stream, _, cancel, err := p.watch(ctx)
	if err != nil {
		return "", err
	}
	defer cancel()
	if err := p.act(ctx, p.Revoke); err != nil {
		return "", fmt.Errorf("revoke: %w", err)
	}
	if err := endsDenied(stream); err != nil {
		return "", err
	}
	if code := status.Code(ask(ctx, p, p.fetchX509).err); code != codes.PermissionDenied {
		return "", fmt.Errorf("the stream ended, but a fresh one gives %s", code)
	}
	return "the open stream and a fresh one", nil
}

func endsDenied(stream x509Stream) error {
	for {
		message, err := stream.Recv()
		switch {
		case status.Code(err) == codes.PermissionDenied:
			return nil
		case status.Code(err) == codes.DeadlineExceeded:
			return errors.New("the stream stayed open")
		case err != nil:
			return fmt.Errorf("the stream ends with %w", err)
		case len(message.GetSvids()) == 0:
			return errors.New("the stream gives a message without SVIDs")
		}
	}
}
