package credential

import (
	"bytes"
	"errors"
	"io"
	"slices"
)

// ErrEcho ends an answer that contains the credential.
var ErrEcho = errors.New("the upstream's answer contains the credential")

// Guard passes an answer on as it comes, up to the place where the secret
// would begin, if it comes up.
type Guard struct {
	from   io.ReadCloser
	secret []byte
	held   []byte // read and not passed on: the secret may begin in it
	ready  int    // bytes of held that may be passed on
	err    error  // what follows held
}

// NewGuard guards from.
func NewGuard(from io.ReadCloser, secret string) *Guard {
	return &Guard{from: from, secret: []byte(secret)}
}

// Read passes on what can't be part of the secret.
func (g *Guard) Read(p []byte) (int, error) {
	for g.ready == 0 {
		if g.err != nil {
			return 0, g.err
		}
		g.fill(len(p))
	}
	n := copy(p, g.held[:g.ready])
	g.held = g.held[:copy(g.held, g.held[n:])]
	g.ready -= n
	return n, nil
}

// fill reads once and decides how much of held may go.
func (g *Guard) fill(size int) {
	start := len(g.held)
	g.held = slices.Grow(g.held, size)[:start+size]
	n, err := g.from.Read(g.held[start:])
	g.held = g.held[:start+n]
	if at := bytes.Index(g.held, g.secret); at >= 0 {
		g.held, g.ready, g.err = g.held[:at], at, ErrEcho
		return
	}
	g.ready, g.err = len(g.held)-g.tail(), err
	if err != nil {
		g.ready = len(g.held) // nothing follows that could complete the secret
	}
}

// tail gives the length of the longest end of held that begins the secret.
func (g *Guard) tail() int {
	for n := min(len(g.secret)-1, len(g.held)); n > 0; n-- {
		if bytes.Equal(g.held[len(g.held)-n:], g.secret[:n]) {
			return n
		}
	}
	return 0
}

// Close closes what is guarded.
func (g *Guard) Close() error { return g.from.Close() }
