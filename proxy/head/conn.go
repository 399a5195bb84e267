package head

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// Conn is a connection that lets through well-framed HTTP/1 requests only. One
// goroutine at a time may read it, as http.Server does.
type Conn struct {
	net.Conn
	refusal  atomic.Pointer[Refusal] // of a head
	broken   atomic.Pointer[Refusal] // of a body
	upgraded atomic.Bool

	buf     []byte // read, not yet delivered
	ready   int    // how many bytes of buf are checked
	scanned int    // how far buf was searched for the end of a line
	step    step
	left    int64 // of the body or the chunk
	err     error // what every further Read gives, once buf is delivered
}

// step is what the next unchecked byte belongs to.
type step int

const (
	inHead step = iota
	inBody
	inChunkSize
	inChunk
	inChunkEnd // CR LF after a chunk's data
	inLast     // CR LF after the last chunk: trailer fields are refused
)

// NewConn puts the check before c.
func NewConn(c net.Conn) *Conn { return &Conn{Conn: c} }

// Refusal gives why a head was refused; nil while none was. It answers the
// request with the method Stand.
func (c *Conn) Refusal() *Refusal { return c.refusal.Load() }

// BodyRefusal gives why the body being read was refused; nil while it was not.
// net/http does not always pass on the error that Read gave.
func (c *Conn) BodyRefusal() *Refusal { return c.broken.Load() }

// Upgraded ends the check: what follows is another protocol. Call it after the
// connection is taken over from http.Server.
func (c *Conn) Upgraded() { c.upgraded.Store(true) }

// Read gives checked bytes.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for c.advance(); c.ready == 0; c.advance() {
		if c.err != nil {
			return 0, c.err
		}
		if len(c.buf) == 0 && c.direct() {
			return c.readDirect(p)
		}
		if err := c.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, c.buf[:c.ready])
	c.deliver(n)
	return n, nil
}

// Close closes the connection. After a refusal it first takes in for a moment
// what the client is still sending: closing over unread bytes resets the
// connection, and the client would lose the answer.
func (c *Conn) Close() error {
	if c.Refusal() != nil || c.BodyRefusal() != nil {
		c.linger()
	}
	return c.Conn.Close()
}

// CloseWrite says that no more will be written. http.Server uses it before it
// closes a connection whose client may still be sending.
func (c *Conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

func (c *Conn) linger() {
	const most, patience = 1 << 20, 500 * time.Millisecond
	_ = c.CloseWrite() // the connection is closed next, whatever comes of it
	_ = c.Conn.SetReadDeadline(time.Now().Add(patience))
	_, _ = io.CopyN(io.Discard, c.Conn, most)
}

// direct reports whether the next bytes need no check.
func (c *Conn) direct() bool {
	return c.upgraded.Load() || c.step == inBody || c.step == inChunk
}

// readDirect reads body bytes without a copy through buf.
func (c *Conn) readDirect(p []byte) (int, error) {
	if c.upgraded.Load() {
		return c.Conn.Read(p)
	}
	if int64(len(p)) > c.left {
		p = p[:c.left]
	}
	n, err := c.Conn.Read(p)
	c.take(int64(n))
	return n, err
}

// fill reads more. An error of the connection is not kept: a deadline may be
// lifted and the read tried again.
func (c *Conn) fill() error {
	const least = 4 << 10
	if cap(c.buf)-len(c.buf) < least {
		grown := make([]byte, len(c.buf), 2*len(c.buf)+least)
		copy(grown, c.buf)
		c.buf = grown
	}
	n, err := c.Conn.Read(c.buf[len(c.buf):cap(c.buf)])
	c.buf = c.buf[:len(c.buf)+n]
	if n > 0 {
		return nil
	}
	return err
}

func (c *Conn) deliver(n int) {
	rest := copy(c.buf, c.buf[n:])
	c.buf = c.buf[:rest]
	c.ready -= n
	c.scanned = max(c.scanned-n, 0)
}

// advance checks as much of buf as it can, up to the end of the request: what
// is wrong with the next one must not disturb the answer to this one.
func (c *Conn) advance() {
	for c.err == nil && c.ready < len(c.buf) && !c.whole() {
		if c.upgraded.Load() {
			c.ready = len(c.buf)
			return
		}
		if !c.one(c.buf[c.ready:]) {
			return
		}
	}
}

// whole reports whether what is ready reaches the end of a request.
func (c *Conn) whole() bool { return c.ready > 0 && c.step == inHead }

// one checks the next element of rest; false means that it needs more bytes.
func (c *Conn) one(rest []byte) bool {
	switch c.step {
	case inHead:
		return c.head(rest)
	case inBody, inChunk:
		n := min(c.left, int64(len(rest)))
		c.ready += int(n)
		c.take(n)
		return true
	case inChunkSize:
		return c.chunkSize(rest)
	}
	return c.lineEnd(rest)
}

// take counts n bytes of a body or chunk.
func (c *Conn) take(n int64) {
	c.left -= n
	switch {
	case c.left > 0:
	case c.step == inChunk:
		c.step = inChunkEnd
	default:
		c.step = inHead
	}
}

func (c *Conn) head(rest []byte) bool {
	end, refusal := c.headEnd()
	if refusal == nil && end < 0 && len(rest) > MaxBytes || end > c.ready+MaxBytes {
		refusal = &Refusal{http.StatusRequestHeaderFieldsTooLarge, "header-too-large"}
	}
	if refusal == nil && end < 0 {
		return false
	}
	var frame framing
	if refusal == nil {
		frame, refusal = check(c.buf[c.ready:end])
	}
	if refusal != nil {
		c.refuseHead(refusal)
		return true
	}
	c.ready, c.scanned = end, end
	c.expect(frame)
	return true
}

// headEnd finds the end of the head's empty line in buf; -1 when it is not
// there yet. It refuses a line feed without carriage return at once, because a
// head written that way might never end by our rule.
func (c *Conn) headEnd() (int, *Refusal) {
	c.scanned = max(c.scanned, c.ready)
	for {
		i := bytes.IndexByte(c.buf[c.scanned:], '\n')
		if i < 0 {
			return -1, nil
		}
		at := c.scanned + i
		if at == c.ready || c.buf[at-1] != '\r' {
			return 0, refuse("bare-line-feed")
		}
		c.scanned = at + 1
		if at-1 == c.ready {
			return 0, refuse("malformed-request-line") // an empty first line
		}
		if c.buf[at-2] == '\n' {
			return at + 1, nil
		}
	}
}

func (c *Conn) expect(frame framing) {
	switch {
	case frame.chunked:
		c.step = inChunkSize
	case frame.length > 0:
		c.step, c.left = inBody, frame.length
	}
}

// refuseHead puts the stand-in where the head was and ends the connection
// after it.
func (c *Conn) refuseHead(refusal *Refusal) {
	c.refusal.Store(refusal)
	c.buf = append(c.buf[:c.ready], stand...)
	c.ready = len(c.buf)
	c.err = io.EOF
}

// refuseBody ends the body with an error.
func (c *Conn) refuseBody(refusal *Refusal) {
	c.broken.Store(refusal)
	c.buf = c.buf[:c.ready]
	c.err = refusal
}

// maxChunkSizeDigits keeps a size within int64.
const maxChunkSizeDigits = 15

// chunkSize wants hexadecimal digits and CR LF: extensions are refused, since
// readers differ on where one ends.
func (c *Conn) chunkSize(rest []byte) bool {
	i := bytes.IndexByte(rest, '\n')
	if i < 0 && len(rest) <= maxChunkSizeDigits+1 {
		return false
	}
	if i < 2 || i > maxChunkSizeDigits+1 || rest[i-1] != '\r' {
		c.refuseBody(refuse("malformed-chunk"))
		return true
	}
	size, ok := parseChunkSize(rest[:i-1])
	if !ok {
		c.refuseBody(refuse("malformed-chunk"))
		return true
	}
	c.ready += i + 1
	c.step, c.left = inChunk, size
	if size == 0 {
		c.step = inLast
	}
	return true
}

func parseChunkSize(digits []byte) (int64, bool) {
	var size int64
	for _, c := range digits {
		digit := strings.IndexByte("0123456789abcdef", lower(c))
		if digit < 0 {
			return 0, false
		}
		size = size<<4 | int64(digit)
	}
	return size, true
}

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		return c | 0x20
	}
	return c
}

// lineEnd wants CR LF.
func (c *Conn) lineEnd(rest []byte) bool {
	if rest[0] != '\r' || len(rest) > 1 && rest[1] != '\n' {
		reason := "malformed-chunk"
		if c.step == inLast {
			reason = "trailer-fields"
		}
		c.refuseBody(refuse(reason))
		return true
	}
	if len(rest) < 2 {
		return false
	}
	c.ready += 2
	if c.step == inLast {
		c.step = inHead
		return true
	}
	c.step = inChunkSize
	return true
}
