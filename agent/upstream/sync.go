package upstream

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/authsec-ai/icp/internal/wire"
)

// ErrReplaced ends a stream because the agent has a new SVID: open it again.
var ErrReplaced = errors.New("the agent's SVID was replaced")

var errSilence = errors.New("the server has said nothing for too long")

// Sync follows what this agent may have, from a cursor on, and gives each frame
// to each until that errs, the stream ends or is silent too long, or ctx ends.
// It never returns nil. A zero cursor asks for everything.
func (c *Client) Sync(ctx context.Context, epoch string, revision int64, each func(wire.SyncFrame) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(c.cfg.Silence, func() { cancel(errSilence) })
	defer watchdog.Stop()
	s := c.session()
	stopWatching := c.endWhenReplaced(ctx, s, cancel)
	defer stopWatching()

	query := url.Values{"epoch": {epoch}, "revision": {strconv.FormatInt(revision, 10)}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+wire.PathSync+"?"+query.Encode(), nil)
	if err != nil {
		return fmt.Errorf("make the request for %s: %w", wire.PathSync, err)
	}
	resp, err := send(s.transport, req)
	if err != nil {
		return orCause(ctx, c.noteRejected(err))
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(make([]byte, 64<<10), wire.MaxFrameBytes)
	for lines.Scan() {
		watchdog.Reset(c.cfg.Silence)
		var frame wire.SyncFrame
		if err := json.Unmarshal(lines.Bytes(), &frame); err != nil {
			return unavailable(err, "read a frame of the sync stream")
		}
		if err := each(frame); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return orCause(ctx, unavailable(err, "read the sync stream"))
	}
	return orCause(ctx, unavailable(nil, "the server ended the sync stream"))
}

// endWhenReplaced cancels when s has been replaced. The function it gives stops
// that and waits.
func (c *Client) endWhenReplaced(ctx context.Context, s *session, cancel context.CancelCauseFunc) func() {
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-s.replaced:
			cancel(ErrReplaced)
		case <-ctx.Done():
		case <-stop:
		}
	}()
	return func() {
		close(stop)
		<-done
	}
}

// orCause gives why ctx ended, if it did, in place of what that led to.
func orCause(ctx context.Context, err error) error {
	switch cause := context.Cause(ctx); {
	case cause == nil:
		return err
	case errors.Is(cause, errSilence):
		return unavailable(cause, "follow the sync stream")
	default:
		return cause
	}
}
