package fault

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// link is one connection through the proxy.
type link struct {
	ctx context.Context // ends with it
	end context.CancelFunc

	mu    sync.Mutex
	conns []net.Conn
}

// take makes a connection part of the link; false if that has ended.
func (l *link) take(conn net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx.Err() != nil {
		abort(conn)
		return false
	}
	l.conns = append(l.conns, conn)
	return true
}

// reset ends the link with a reset to both sides, unless they have ended.
func (l *link) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end()
	for _, conn := range l.conns {
		abort(conn)
	}
}

// abort closes a connection at once; over TCP its peer gets a reset.
func abort(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // it may be closed already
	}
	_ = conn.Close()
}

// serve connects a client to the upstream until both have ended.
func (p *Proxy) serve(from net.Listener, client net.Conn) {
	ctx, end := context.WithCancel(context.Background())
	l := &link{ctx: ctx, end: end}
	defer l.reset() // to those that have ended it does nothing
	if !l.take(client) || !p.admit(from, l) {
		return
	}
	defer p.forget(l)
	if !p.open(l, ToUpstream) {
		return
	}
	upstream, err := new(net.Dialer).DialContext(ctx, p.network, p.upstream)
	if err != nil || !l.take(upstream) {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { p.pump(l, client, upstream, ToUpstream) })
	both.Go(func() { p.pump(l, upstream, client, ToClient) })
	both.Wait()
	if ctx.Err() == nil { // both have ended in order: no reset
		_ = client.Close()
		_ = upstream.Close()
	}
}

// admit enters a link, unless the listener that it came from has been closed.
func (p *Proxy) admit(from net.Listener, l *link) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != from {
		return false
	}
	p.links[l] = struct{}{}
	return true
}

func (p *Proxy) forget(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.links, l)
}

// ahead is how many chunks may wait in one direction before the sender has to.
const ahead = 64

// pump carries what from says to to, and then that it has ended.
func (p *Proxy) pump(l *link, from, to net.Conn, way Direction) {
	queue := make(chan chunk, ahead)
	var end error // of from; read after the queue is closed
	var reader sync.WaitGroup
	defer reader.Wait()
	reader.Go(func() {
		defer close(queue)
		end = read(l.ctx, from, queue)
	})
	for c := range queue {
		switch err := p.deliver(l, to, c, way); {
		case l.ctx.Err() != nil:
			return
		case err != nil: // to has ended; from is to learn of it when it may
			if p.open(l, other(way)) {
				l.reset()
			}
			return
		}
	}
	if !p.open(l, way) {
		return
	}
	if !errors.Is(end, io.EOF) || shutWrite(to) != nil {
		l.reset()
	}
}

func other(way Direction) Direction {
	if way == ToClient {
		return ToUpstream
	}
	return ToClient
}

func shutWrite(conn net.Conn) error {
	return conn.(interface{ CloseWrite() error }).CloseWrite()
}

// read gives what from says, until it has ended: io.EOF if it did so in order.
func read(ctx context.Context, from net.Conn, queue chan<- chunk) error {
	buf := make([]byte, 16<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			c := chunk{data: append([]byte(nil), buf[:n]...), at: time.Now(), luck: 2*rand.Float64() - 1}
			select {
			case queue <- c:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if err != nil {
			return err
		}
	}
}

// deliver writes c as the link's condition allows, which may change meanwhile.
func (p *Proxy) deliver(l *link, to net.Conn, c chunk, way Direction) error {
	for len(c.data) > 0 {
		if !p.open(l, way) {
			return l.ctx.Err()
		}
		now := p.condition()
		n, after := now.share(c)
		if now.silent[way] || !now.last(l.ctx, after) {
			continue // it is another now, or the link has ended
		}
		if _, err := to.Write(c.data[:n]); err != nil {
			return err
		}
		c.data = c.data[n:]
	}
	return nil
}

// open waits until something may pass that way; false if the link ends before.
func (p *Proxy) open(l *link, way Direction) bool {
	for {
		now := p.condition()
		if !now.silent[way] {
			return l.ctx.Err() == nil
		}
		select {
		case <-now.over:
		case <-l.ctx.Done():
			return false
		}
	}
}
