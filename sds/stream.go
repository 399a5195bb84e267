package sds

import (
	"context"
	"io"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/authsec-ai/icp/identity"
)

// retryAfter is how long a stream waits before it asks again for a state that
// was unavailable; a change wakes it earlier.
const retryAfter = time.Second

// conversation is one variant of the protocol: what a request means for it, and
// what is to be said when the state may have changed.
type conversation[Req any] interface {
	// hear takes in a request and reports whether it asks for an answer.
	hear(req Req) (answer bool, err error)
	// speak sends what the client lacks of update. Asked says that a request
	// asked for it.
	speak(update *Update, asked bool) error
}

// receiver is the receiving side of a stream.
type receiver[Req any] interface {
	Context() context.Context
	Recv() (Req, error)
}

// converse runs one stream: it attests the caller once, then answers requests
// and pushes changes until either side ends it.
func converse[Req any](s *Server, stream receiver[Req], c conversation[Req]) error {
	ctx := stream.Context()
	sub, err := s.attestor.Watch(ctx)
	if err != nil {
		return err
	}
	defer sub.Close()
	requests, ended := receive(stream)
	var changed <-chan struct{} // nil until there was a first request
	var retry <-chan time.Time
	for asked := false; ; {
		select {
		case err := <-ended:
			return err
		case req := <-requests:
			answer, err := c.hear(req)
			if err != nil {
				return err
			}
			if !answer {
				continue
			}
			asked = true
		case <-changed:
		case <-retry:
		}
		changed, retry = sub.Changed(), nil
		switch err := s.answer(ctx, sub, c.speak, asked); {
		case err == nil:
			asked = false
		case identity.CodeOf(err) == identity.Unavailable:
			retry = time.After(retryAfter) // the client keeps what it has until then
		default:
			return err
		}
	}
}

func (s *Server) answer(ctx context.Context, sub Subscription, speak func(*Update, bool) error, asked bool) error {
	update, err := sub.Update(ctx)
	if err != nil {
		return err
	}
	if len(update.SVIDs) == 0 {
		return status.Error(codes.PermissionDenied, "no identity issued")
	}
	return speak(update, asked)
}

// receive reads requests in a goroutine of its own, which ends with the stream:
// gRPC cancels the context when the handler returns.
func receive[Req any](stream receiver[Req]) (<-chan Req, <-chan error) {
	requests, ended := make(chan Req), make(chan error, 1)
	go func() {
		for {
			req, err := stream.Recv()
			if err == io.EOF {
				ended <- nil
				return
			}
			if err != nil {
				ended <- err
				return
			}
			select {
			case requests <- req:
			case <-stream.Context().Done():
				ended <- stream.Context().Err()
				return
			}
		}
	}()
	return requests, ended
}
