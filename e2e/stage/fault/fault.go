// Package fault is a TCP proxy between two programs that fails as networks do:
// it cuts, goes silent, delays and crawls, while connections run, and heals.
//
// The connections are real ones of this machine's kernel, so what a program sees
// is what it sees of a network: a reset, a refusal, or nothing at all. What is
// held back while the link is silent or slow is not lost: it follows at once
// when the link heals, as TCP's repetitions would bring it.
package fault

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/authsec-ai/icp/e2e/stage"
)

// Proxy stands before one upstream. Its link has one fault at a time: a new one
// takes the place of the one before. All methods may be called at any time, from
// any goroutine.
type Proxy struct {
	Addr string // host:port to connect to in place of the upstream

	t                 stage.T
	network, upstream string
	reserved          int // a socket that keeps Addr while nobody listens there

	mu       sync.Mutex
	now      *condition
	listener net.Listener // nil while the link is cut
	links    map[*link]struct{}
	running  sync.WaitGroup
}

// Direction says which way bytes go.
type Direction int

// The directions, as seen from the client.
const (
	Both Direction = iota
	ToUpstream
	ToClient
)

func (d Direction) String() string {
	return [...]string{"both ways", "to the upstream", "to the client"}[d]
}

// Start stands before upstream, which is host:port or the path of a Unix socket,
// on a loopback port until the test ends.
func Start(t stage.T, upstream string) *Proxy {
	t.Helper()
	p := &Proxy{t: t, network: "tcp", upstream: upstream, links: map[*link]struct{}{}, now: healthy()}
	if strings.HasPrefix(upstream, "/") {
		p.network = "unix"
	}
	var err error
	if p.reserved, p.Addr, err = reserve(); err != nil {
		t.Fatalf("start a fault proxy: %v", err)
	}
	t.Cleanup(p.stop)
	if err := p.listen(); err != nil {
		t.Fatalf("start a fault proxy: %v", err)
	}
	return p
}

// reserve binds a socket to a free loopback port. It never listens: the port
// refuses connections, and nobody else gets it.
func reserve() (socket int, addr string, err error) {
	socket, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, "", fmt.Errorf("make a socket: %w", err)
	}
	err = unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) // so that we may listen there as well
	if err == nil {
		err = unix.Bind(socket, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	}
	var bound unix.Sockaddr
	if err == nil {
		bound, err = unix.Getsockname(socket)
	}
	if err != nil {
		_ = unix.Close(socket) // what went wrong before is the news
		return 0, "", fmt.Errorf("reserve a port: %w", err)
	}
	return socket, fmt.Sprintf("127.0.0.1:%d", bound.(*unix.SockaddrInet4).Port), nil
}

// Cut resets the connections there are and refuses new ones.
func (p *Proxy) Cut() { p.set(&condition{cut: true}) }

// Delay has every byte arrive d later, more or less by up to jitter, and in
// order.
func (p *Proxy) Delay(d, jitter time.Duration) { p.set(&condition{delay: d, jitter: jitter}) }

// HalfOpen lets nothing pass, in one or both directions, not even the end of a
// connection: to each other the peers are there and say nothing.
func (p *Proxy) HalfOpen(way Direction) {
	p.set(&condition{silent: [...]bool{ToUpstream: way != ToClient, ToClient: way != ToUpstream}})
}

// Slow lets so many bytes pass per second, in each direction of each connection.
func (p *Proxy) Slow(bytesPerSecond int) { p.set(&condition{rate: max(1, bytesPerSecond)}) }

// Heal ends the fault. What was held back goes on at once; what was reset does
// not come back.
func (p *Proxy) Heal() { p.set(healthy()) }

func (p *Proxy) set(c *condition) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.over = make(chan struct{})
	close(p.now.over)
	p.now = c
	if c.cut {
		p.refuse()
	} else if p.listener == nil {
		if err := p.listen(); err != nil {
			p.t.Errorf("heal a fault proxy: %v", err)
		}
	}
}

func (p *Proxy) condition() *condition {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now
}

// refuse ends every connection and takes no new one. The caller holds p.mu.
func (p *Proxy) refuse() {
	if p.listener != nil {
		_ = p.listener.Close() // nothing of it is needed any more
		p.listener = nil
	}
	for l := range p.links {
		l.reset()
	}
}

// listen takes connections. The caller holds p.mu, or nobody has the proxy yet.
func (p *Proxy) listen() error {
	l, err := net.Listen("tcp", p.Addr)
	if err != nil {
		return err
	}
	p.listener = l
	p.running.Go(func() { p.accept(l) })
	return nil
}

func (p *Proxy) accept(l net.Listener) {
	for {
		client, err := l.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			p.t.Errorf("the fault proxy before %s takes no more connections: %v", p.upstream, err)
			return
		}
		p.running.Go(func() { p.serve(l, client) })
	}
}

// stop ends everything and waits for it.
func (p *Proxy) stop() {
	p.Cut()
	p.running.Wait()
	if err := unix.Close(p.reserved); err != nil {
		p.t.Errorf("give back a fault proxy's port: %v", err)
	}
}
