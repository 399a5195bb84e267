package proxy

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// idleBody is a request body whose bytes must keep coming.
type idleBody struct {
	io.ReadCloser
	control *http.ResponseController
	idle    time.Duration

	mu     sync.Mutex
	closed bool
}

var errBodyClosed = errors.New("the request is over")

// newBody bounds the pauses of the caller's body. Close it before the handler
// returns: the transport may go on reading it, and must not touch what is the
// next request's. The body stays in r as well, where net/http looks for it.
func newBody(r *http.Request, control *http.ResponseController, idle time.Duration) io.ReadCloser {
	if r.Body == http.NoBody {
		return http.NoBody
	}
	return &idleBody{ReadCloser: r.Body, control: control, idle: idle}
}

// Read reads with a deadline, which it lifts at the end of the body: net/http
// then goes on reading, to notice a caller that leaves.
func (b *idleBody) Read(p []byte) (int, error) {
	if !b.deadline(time.Now().Add(b.idle)) {
		return 0, errBodyClosed
	}
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.deadline(time.Time{})
	}
	return n, err
}

func (b *idleBody) deadline(at time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		_ = b.control.SetReadDeadline(at) // not supported by the connection: no bound
	}
	return !b.closed
}

// Close ends reading.
func (b *idleBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil
	}
	b.closed = true
	_ = b.control.SetReadDeadline(time.Time{})
	return nil // http.Server closes the body itself
}
