package proxy

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// idleBody is a request body whose bytes must keep coming. It wraps the body
// that stays in the request, where net/http looks for it.
type idleBody struct {
	io.ReadCloser
	control *http.ResponseController
	idle    time.Duration
	drains  bool // the rest of the body is read before the connection serves again

	mu     sync.Mutex
	ended  bool // it was read to its end
	closed bool
}

var errBodyClosed = errors.New("the request is over")

func newBody(r *http.Request, control *http.ResponseController, idle time.Duration) *idleBody {
	return &idleBody{
		ReadCloser: r.Body, control: control, idle: idle, ended: r.Body == http.NoBody,
		// Reading would ask an expectant caller to go on; HTTP/2 has no rest.
		drains: r.ProtoMajor == 1 && r.Header.Get("Expect") == "",
	}
}

// Read reads with a deadline, which it lifts at the end of the body: net/http
// then goes on reading, to notice a caller that leaves.
func (b *idleBody) Read(p []byte) (int, error) {
	if !b.deadline(time.Now().Add(b.idle), false) {
		return 0, errBodyClosed
	}
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.deadline(time.Time{}, true)
	}
	return n, err
}

// deadline bounds the next read. It reports false once the body is closed.
func (b *idleBody) deadline(at time.Time, ended bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false
	}
	b.ended = b.ended || ended
	_ = b.control.SetReadDeadline(at) // not supported by the connection: no bound
	return true
}

// Close ends reading. Call it before an answer that does not wait for the
// body, and before the handler returns: the transport may go on reading, and
// must not touch what is the next request's. net/http reads what is left of a
// body before it writes an answer; Close does that for it, within a moment, so
// that the deadline of the write is not used up.
func (b *idleBody) Close() error {
	const moment, most = time.Second, 256 << 10
	b.mu.Lock()
	left := !b.closed && !b.ended && b.drains
	b.closed = true
	if left {
		_ = b.control.SetReadDeadline(time.Now().Add(moment))
	}
	b.mu.Unlock()
	if left {
		_, _ = io.CopyN(io.Discard, b.ReadCloser, most) // what fails here fails for net/http too
	}
	return nil // http.Server closes the body itself
}
