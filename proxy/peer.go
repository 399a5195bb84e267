package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"sync"
	"time"

	"github.com/authsec-ai/icp/identity/svid"
	"github.com/authsec-ai/icp/proxy/head"
)

// peer is one client connection. It sits under the TLS connection, so that
// closing it closes the connection hard.
type peer struct {
	net.Conn
	all    *peers
	remote string // address

	// Set in the handshake, before any request; then only read.
	svid       *svid.X509
	chain      []*x509.Certificate // as presented
	described  string              // for the upstream, in Envoy's form
	under      *snapshot           // that the chain was verified with
	serverName string
	head       *head.Conn // nil for HTTP/2
	leaveAt    time.Time  // from here on answers ask the caller to connect anew

	mu      sync.Mutex
	running map[*exchange]struct{}
	timers  []*time.Timer // that end the connection
	closed  bool
}

// peerOf finds the peer of a connection that the listener gave to http.Server.
func peerOf(conn net.Conn) *peer {
	if checked, ok := conn.(*head.Conn); ok {
		conn = checked.Conn
	}
	return conn.(*tls.Conn).NetConn().(*peer)
}

// bodyRefusal gives why the framing of the body being read was refused.
func (p *peer) bodyRefusal() *head.Refusal {
	if p.head == nil {
		return nil
	}
	return p.head.BodyRefusal()
}

// Close closes the connection and forgets it.
func (p *peer) Close() error {
	p.all.remove(p)
	p.mu.Lock()
	p.closed = true
	for _, timer := range p.timers {
		timer.Stop()
	}
	p.mu.Unlock()
	return p.Conn.Close()
}

// expire sets when the connection ends. A caller that rotates its SVID is to
// lose nothing: when two thirds of what the SVID had left are over, answers ask
// the caller to connect anew; who asked nothing since then, and has nothing
// running, is disconnected at five sixths. Grace after the SVID's end the
// connection is closed with what still runs on it. All is in parts of what was
// left, so that a caller without a newer SVID need not connect for every request.
func (p *peer) expire(now time.Time, grace time.Duration) {
	left := p.svid.NotAfter.Sub(now)
	p.leaveAt = now.Add(left * 2 / 3)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.timers = []*time.Timer{
		time.AfterFunc(left*5/6, p.closeIdle),
		time.AfterFunc(left+grace, func() { p.shut(refuseExpired()) }),
	}
}

// closeIdle closes the connection unless something runs on it.
func (p *peer) closeIdle() {
	p.mu.Lock()
	idle := len(p.running) == 0
	p.mu.Unlock()
	if idle {
		_ = p.Close() // it is gone either way
	}
}

// shut cuts what runs on the connection and closes it without a goodbye.
func (p *peer) shut(why *refusal) {
	p.each(func(x *exchange) { x.cut(why) })
	_ = p.Close() // it is gone either way
}

// begin makes x reachable for a cut.
func (p *peer) begin(x *exchange) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running[x] = struct{}{}
}

// end makes x unreachable; afterwards no cut is under way.
func (p *peer) end(x *exchange) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.running, x)
}

// each calls do for what runs on the connection. Nothing ends meanwhile.
func (p *peer) each(do func(*exchange)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for x := range p.running {
		do(x)
	}
}

// peers are the live connections.
type peers struct {
	mu   sync.Mutex
	live map[*peer]struct{}
}

func newPeers() *peers { return &peers{live: map[*peer]struct{}{}} }

// wrap starts keeping track of conn. It counts as live once it is added.
func (ps *peers) wrap(conn net.Conn) *peer {
	return &peer{Conn: conn, all: ps, remote: conn.RemoteAddr().String(), running: map[*exchange]struct{}{}}
}

func (ps *peers) add(p *peer) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	ps.live[p] = struct{}{}
}

func (ps *peers) remove(p *peer) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	delete(ps.live, p)
}

// list gives the connections of this moment.
func (ps *peers) list() []*peer {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	list := make([]*peer, 0, len(ps.live))
	for p := range ps.live {
		list = append(list, p)
	}
	return list
}

func (ps *peers) count() int64 {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	return int64(len(ps.live))
}

// running counts the requests under way.
func (ps *peers) running() int64 {
	var n int64
	ps.each(func(*exchange) { n++ })
	return n
}

// each calls do for every running request.
func (ps *peers) each(do func(*exchange)) {
	for _, p := range ps.list() {
		p.each(do)
	}
}

// shutIf shuts every connection for which why gives a reason.
func (ps *peers) shutIf(why func(*peer) *refusal) {
	for _, p := range ps.list() {
		if refusal := why(p); refusal != nil {
			p.shut(refusal)
		}
	}
}

// cutIf cuts every running request for which why gives a reason.
func (ps *peers) cutIf(why func(*exchange) *refusal) {
	ps.each(func(x *exchange) {
		if refusal := why(x); refusal != nil {
			x.cut(refusal)
		}
	})
}
