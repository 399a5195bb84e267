package proxy

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// memory bounds what request bodies that wait for a decision take up together.
// One caller gets a quarter of it at most, so that none can keep it from the
// others.
type memory struct {
	total int64

	mu    sync.Mutex
	taken int64
	by    map[spiffeid.ID]int64
}

var errMemory = errors.New("the memory for request bodies is used up")

func newMemory(total int64) *memory {
	return &memory{total: total, by: map[spiffeid.ID]int64{}}
}

// share is the most that one caller gets.
func (m *memory) share() int64 { return m.total / 4 }

// checkFits refuses a route's limit that no body could use up.
func (m *memory) checkFits(service string, body int64) error {
	if body > m.share() {
		return fmt.Errorf("routes (%s): max_body_bytes is %d, over a quarter of max_buffered_bytes (%d)", service, body, m.total)
	}
	return nil
}

// take reports whether the caller may use n more bytes.
func (m *memory) take(caller spiffeid.ID, n int64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.taken+n > m.total || m.by[caller]+n > m.share() {
		return false
	}
	m.taken += n
	m.by[caller] += n
	return true
}

// give returns what was taken.
func (m *memory) give(caller spiffeid.ID, n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.taken -= n
	if m.by[caller] -= n; m.by[caller] == 0 {
		delete(m.by, caller)
	}
}

// letGo gives up the body: it has been sent, or is not going to be.
func (x *exchange) letGo() {
	x.proxy.memory.give(x.peer.svid.ID, x.memory)
	x.raw, x.memory = nil, 0
}

// rawBody gives bytes once, and keeps them no longer than that: the transport
// holds on to the request while the answer runs.
type rawBody struct{ rest []byte }

// Read gives the next bytes.
func (b *rawBody) Read(p []byte) (int, error) {
	n := copy(p, b.rest)
	if b.rest = b.rest[n:]; len(b.rest) > 0 {
		return n, nil
	}
	b.rest = nil
	return n, io.EOF
}

// Close does nothing.
func (b *rawBody) Close() error { return nil }

// readAll reads a body, which ends after most bytes at the latest. It takes memory
// as bytes arrive, not as they are announced, until letGo.
func (x *exchange) readAll(body io.Reader, most int64) ([]byte, error) {
	const first = 16 << 10
	var raw []byte
	for {
		if len(raw) == cap(raw) {
			more := min(max(first, cap(raw)), int(most)+1-cap(raw)) // twice as much
			if !x.proxy.memory.take(x.peer.svid.ID, int64(more)) {
				return nil, errMemory
			}
			x.memory += int64(more)
			raw = append(make([]byte, 0, cap(raw)+more), raw...)
		}
		n, err := body.Read(raw[len(raw):cap(raw)])
		raw = raw[:len(raw)+n]
		if err == io.EOF {
			return raw, nil
		}
		if err != nil {
			return nil, err
		}
	}
}
