package workloadapi

import (
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/authsec-ai/icp/agent/session"
	"github.com/authsec-ai/icp/identity"
)

// retryAfter is how long a stream waits before it asks again for a state that
// was unavailable; a change wakes it earlier.
const retryAfter = time.Second

// sender is the sending side of a stream.
type sender[M proto.Message] interface {
	Context() context.Context
	Send(M) error
}

// builder makes the message for the complete state of a watched caller.
type builder[M proto.Message] func(context.Context, *session.Watch) (M, error)

// follow sends the message that build makes, at once, and again whenever it
// differs from the last one sent. It ends with the reason why the caller gets
// no more.
func follow[M proto.Message](sessions *session.Opener, stream sender[M], build builder[M]) error {
	ctx := stream.Context()
	watch, err := sessions.Watch(ctx)
	if err != nil {
		return err
	}
	defer watch.Close()
	var sent [sha256.Size]byte
	for started := false; ; started = true {
		changed := watch.Changed()
		err := sendIfNew(watch, stream, build, &sent)
		var retry <-chan time.Time
		switch {
		case err == nil:
		case started && identity.CodeOf(err) == identity.Unavailable:
			retry = time.After(retryAfter) // what the caller holds stays good until then
		default:
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-retry:
		}
	}
}

// sendIfNew sends the caller's state unless it is what the digest in sent
// stands for.
func sendIfNew[M proto.Message](watch *session.Watch, stream sender[M], build builder[M], sent *[sha256.Size]byte) error {
	message, err := build(stream.Context(), watch)
	if err != nil {
		return err
	}
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(message)
	if err != nil {
		return fmt.Errorf("encode the message: %w", err)
	}
	digest := sha256.Sum256(raw)
	if digest == *sent {
		return nil
	}
	*sent = digest
	return stream.Send(message)
}
