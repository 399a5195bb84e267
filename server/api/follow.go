package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/authsec-ai/icp/internal/wire"
	"github.com/authsec-ai/icp/server/store"
)

// isStream reports whether the route's answer goes on until one side ends it.
func (r route) isStream() bool { return r.path == wire.PathSync || r.path == wire.PathGateway }

// follower turns a tenant's history into what one stream sends.
type follower interface {
	// reset sends everything and gives the cursor at which that was true.
	reset(ctx context.Context) (store.Cursor, error)
	// changed sends what changes mean for this stream; at is the cursor after them.
	changed(ctx context.Context, changes []store.Change, at store.Cursor) error
	// idle is called every heartbeat: it sends something, and ends the stream if
	// its caller is no longer entitled to it.
	idle(ctx context.Context, at store.Cursor) error
}

// follow feeds f with the tenant's history after at, until ctx ends, the server
// drains, or f gives an error.
func (a *API) follow(ctx context.Context, tenant string, at store.Cursor, f follower) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(a.Draining, cancel)()
	// Pacing a connection is about real time, whatever clock certificates use.
	beat := time.Now().Add(a.Heartbeat)
	for {
		var err error
		if at, err = a.step(ctx, tenant, at, beat, f); err != nil {
			return err
		}
		if now := time.Now(); !now.Before(beat) {
			beat = now.Add(a.Heartbeat)
			if err := f.idle(ctx, at); err != nil {
				return err
			}
		}
	}
}

// step waits for news until the time of the next heartbeat, and passes them on.
func (a *API) step(ctx context.Context, tenant string, at store.Cursor, beat time.Time, f follower) (store.Cursor, error) {
	waiting, cancel := context.WithDeadline(ctx, beat)
	defer cancel()
	now, err := a.Store.Wait(waiting, tenant, at)
	switch {
	case ctx.Err() != nil:
		return at, ctx.Err()
	case err != nil && waiting.Err() != nil: // nothing happened until then
		return at, nil
	case err != nil:
		return at, fmt.Errorf("wait for changes: %w", err)
	case now.Epoch != at.Epoch:
		return f.reset(ctx)
	}
	changes, err := a.Store.Changes(ctx, tenant, at.Revision, changePage)
	if err != nil {
		return at, fmt.Errorf("read changes: %w", err)
	}
	if len(changes) == 0 {
		return now, nil
	}
	at.Revision = changes[len(changes)-1].Revision
	return at, f.changed(ctx, changes, at)
}

// changePage is about how many changes are read at a time. The store never
// splits a revision, of which a cursor in its middle would lose the rest.
const changePage = 1000

// writeTimeout is how long a reader may take for one frame before its stream is
// given up.
const writeTimeout = 10 * time.Second

// stream writes frames, one JSON object a line.
type stream struct {
	w     http.ResponseWriter
	rc    *http.ResponseController
	limit int // bytes of a line
}

// stream begins an answer whose lines are shorter than limit: from here on, an
// error ends it without a word.
func (c *call) stream(limit int) (*stream, error) {
	w := c.ec.Response()
	rc := http.NewResponseController(w)
	if err := rc.SetReadDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("lift the read deadline of a stream: %w", err)
	}
	h := w.Header()
	h.Set("Content-Type", "application/x-ndjson")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // asks nginx not to hold frames back
	return &stream{w: w, rc: rc, limit: limit}, nil
}

// send writes one frame and flushes it.
func (s *stream) send(frame any) error {
	raw, err := json.Marshal(frame)
	if err != nil {
		return fmt.Errorf("encode a frame: %w", err)
	}
	if len(raw) >= s.limit {
		return fmt.Errorf("frame of %d bytes is over the limit of %d", len(raw), s.limit)
	}
	if err := s.rc.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return fmt.Errorf("set the deadline of a frame: %w", err)
	}
	if _, err := s.w.Write(append(raw, '\n')); err != nil {
		return fmt.Errorf("write a frame: %w", err)
	}
	if err := s.rc.Flush(); err != nil {
		return fmt.Errorf("flush a frame: %w", err)
	}
	return nil
}
