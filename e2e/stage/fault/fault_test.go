package fault

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/authsec-ai/icp/e2e/stage"
)

// patience is how long these tests wait for what must come.
const patience = 20 * time.Second

// silence is how long they look for what must not come.
const silence = 150 * time.Millisecond

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestProve(t *testing.T) { t.Logf("%+v", Prove(t)) }

// peer is one end of a connection.
type peer struct {
	t *testing.T
	*net.TCPConn
}

func (p peer) say(text string) {
	p.t.Helper()
	if _, err := p.Write([]byte(text)); err != nil {
		p.t.Fatalf("write: %v", err)
	}
}

// hear reads exactly text.
func (p peer) hear(text string) {
	p.t.Helper()
	got := make([]byte, len(text))
	p.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(p, got); err != nil || string(got) != text {
		p.t.Fatalf("read %q (%v), want %q", got, err, text)
	}
}

// hearNothing finds no byte and no end.
func (p peer) hearNothing() {
	p.t.Helper()
	p.SetReadDeadline(time.Now().Add(silence))
	if n, err := p.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		p.t.Fatalf("read %d bytes (%v), want nothing", n, err)
	}
}

// hearEnd finds that the connection has ended so.
func (p peer) hearEnd(want error) {
	p.t.Helper()
	p.SetReadDeadline(time.Now().Add(patience))
	if n, err := p.Read(make([]byte, 1)); !errors.Is(err, want) {
		p.t.Fatalf("read %d bytes (%v), want %v", n, err, want)
	}
}

// upstream hands out the connections that it takes.
type upstream struct {
	t    *testing.T
	addr string
	came chan *net.TCPConn
}

func newUpstream(t *testing.T) *upstream {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u := &upstream{t: t, addr: l.Addr().String(), came: make(chan *net.TCPConn, 16)}
	var group sync.WaitGroup
	group.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			u.came <- conn.(*net.TCPConn)
		}
	})
	t.Cleanup(func() {
		l.Close()
		group.Wait()
	})
	return u
}

func (u *upstream) next() peer {
	u.t.Helper()
	select {
	case conn := <-u.came:
		u.t.Cleanup(func() { conn.Close() })
		return peer{u.t, conn}
	case <-time.After(patience):
		u.t.Fatal("no connection came to the upstream")
		return peer{}
	}
}

func dial(t *testing.T, p *Proxy) peer {
	t.Helper()
	conn, err := net.Dial("tcp", p.Addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return peer{t, conn.(*net.TCPConn)}
}

// connect gives both ends of a connection through p over which each has heard
// the other.
func connect(t *testing.T, p *Proxy, u *upstream) (client, server peer) {
	t.Helper()
	client = dial(t, p)
	server = u.next()
	client.say("hello")
	server.hear("hello")
	server.say("welcome")
	client.hear("welcome")
	return client, server
}

// ways are the two directions of a connection.
var ways = map[Direction]func(client, server peer) (from, to peer){
	ToUpstream: func(client, server peer) (from, to peer) { return client, server },
	ToClient:   func(client, server peer) (from, to peer) { return server, client },
}

// eachWay runs a test with what goes to the upstream, and with what goes to the
// client.
func eachWay(t *testing.T, test func(t *testing.T, p *Proxy, way Direction, from, to peer)) {
	for way, ends := range ways {
		t.Run(way.String(), func(t *testing.T) {
			u := newUpstream(t)
			p := Start(t, u.addr)
			client, server := connect(t, p, u)
			from, to := ends(client, server)
			test(t, p, way, from, to)
		})
	}
}

func TestCut(t *testing.T) {
	u := newUpstream(t)
	p := Start(t, u.addr)
	client, server := connect(t, p, u)
	idle := dial(t, p)
	u.next()
	p.Cut()
	client.hearEnd(syscall.ECONNRESET)
	server.hearEnd(syscall.ECONNRESET)
	idle.hearEnd(syscall.ECONNRESET)
	for range 3 { // however often
		p.Cut()
		if conn, err := net.Dial("tcp", p.Addr); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("dialled %v (%v), want it refused", conn, err)
		}
	}
	p.Heal()
	connect(t, p, u)
}

func TestHalfOpen(t *testing.T) {
	for _, silent := range []Direction{Both, ToUpstream, ToClient} {
		t.Run("silent "+silent.String(), func(t *testing.T) {
			eachWay(t, func(t *testing.T, p *Proxy, way Direction, from, to peer) {
				p.HalfOpen(silent)
				from.say("later")
				if silent == Both || silent == way {
					to.hearNothing()
					p.Heal()
				}
				to.hear("later")
				p.Heal()
				to.say("and back")
				from.hear("and back")
			})
		})
	}
}

// TestHalfOpenHidesEnds has a peer go while the link is silent.
func TestHalfOpenHidesEnds(t *testing.T) {
	eachWay(t, func(t *testing.T, p *Proxy, _ Direction, from, to peer) {
		p.HalfOpen(Both)
		from.say("last words")
		from.Close()
		to.hearNothing()
		p.Heal()
		to.hear("last words")
		to.hearEnd(io.EOF)
	})
}

func TestHalfOpenHidesResets(t *testing.T) {
	eachWay(t, func(t *testing.T, p *Proxy, _ Direction, from, to peer) {
		p.HalfOpen(Both)
		abort(from.TCPConn)
		to.hearNothing()
		to.say("are you there?") // into the dark
		to.hearNothing()
		p.Heal()
		to.hearEnd(syscall.ECONNRESET)
	})
}

// TestHalfOpenHidesNewConnections shows that the upstream does not even hear of
// them.
func TestHalfOpenHidesNewConnections(t *testing.T) {
	u := newUpstream(t)
	p := Start(t, u.addr)
	p.HalfOpen(ToUpstream)
	client := dial(t, p)
	client.say("hello")
	select {
	case <-u.came:
		t.Fatal("a connection came through a silent link")
	case <-time.After(silence):
	}
	p.Heal()
	u.next().hear("hello")
}

func TestDelay(t *testing.T) {
	eachWay(t, func(t *testing.T, p *Proxy, _ Direction, from, to peer) {
		const late = 100 * time.Millisecond
		p.Delay(late, 0)
		began := time.Now()
		from.say("later")
		to.hear("later")
		if took := time.Since(began); took < late {
			t.Errorf("it took %s, want at least %s", took, late)
		}
		p.Delay(time.Hour, 0)
		from.say("much later")
		to.hearNothing()
		p.Heal()
		to.hear("much later")
	})
}

// TestJitterKeepsOrder sends many small pieces, each with a delay of its own.
func TestJitterKeepsOrder(t *testing.T) {
	eachWay(t, func(t *testing.T, p *Proxy, _ Direction, from, to peer) {
		p.Delay(10*time.Millisecond, 10*time.Millisecond)
		var all bytes.Buffer
		for n := range 100 {
			piece := string(rune('a' + n%26))
			from.say(piece)
			all.WriteString(piece)
			time.Sleep(time.Duration(rand.IntN(2)) * time.Millisecond) // so that several are read apart
		}
		to.hear(all.String())
	})
}

func TestSlow(t *testing.T) {
	eachWay(t, func(t *testing.T, p *Proxy, _ Direction, from, to peer) {
		const rate = 20_000
		p.Slow(rate)
		text := string(bytes.Repeat([]byte("x"), rate/4))
		began := time.Now()
		from.say(text)
		to.hear(text)
		if took := time.Since(began); took < time.Second/4 {
			t.Errorf("%d bytes took %s at %d a second", len(text), took, rate)
		}
		p.Slow(1)
		from.say(text)
		p.Heal()
		to.hear(text)
	})
}

// TestHalfClose keeps one direction open when the other has ended.
func TestHalfClose(t *testing.T) {
	eachWay(t, func(t *testing.T, _ *Proxy, _ Direction, from, to peer) {
		from.say("a question")
		from.CloseWrite()
		to.hear("a question")
		to.hearEnd(io.EOF)
		to.say("an answer")
		to.Close()
		from.hear("an answer")
		from.hearEnd(io.EOF)
	})
}

func TestReset(t *testing.T) {
	eachWay(t, func(t *testing.T, _ *Proxy, _ Direction, from, to peer) {
		abort(from.TCPConn)
		to.hearEnd(syscall.ECONNRESET)
	})
}

func TestUnixUpstream(t *testing.T) {
	path := filepath.Join(stage.Folder(t), "socket")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p := Start(t, path)
	client := dial(t, p)
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	client.say("hello")
	if _, err := io.ReadFull(server, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	p.Cut()
	client.hearEnd(syscall.ECONNRESET)
	if _, err := server.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the upstream read %v, want its end", err)
	}
}

// TestNoUpstream connects when the upstream refuses.
func TestNoUpstream(t *testing.T) {
	u := newUpstream(t)
	away := Start(t, u.addr)
	p := Start(t, away.Addr)
	away.Cut()
	conn, err := net.Dial("tcp", p.Addr)
	if err == nil { // else the reset was faster
		defer conn.Close()
		conn.SetReadDeadline(time.Now().Add(patience))
		_, err = conn.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("it ended with %v, want a reset", err)
	}
	away.Heal()
	connect(t, p, u)
}

// TestStorm changes the fault all the time while clients come, lose patience and
// go. Each change must be done at once, and the link be well in the end.
func TestStorm(t *testing.T) {
	web := serveHTTP(t)
	p := Start(t, web)
	c := client{t: t, url: "http://" + p.Addr}
	stop := make(chan struct{})
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					_ = c.get(20 * time.Millisecond) // whatever comes
				}
			}
		})
	}
	faults := []func(){p.Cut, p.Heal, func() { p.HalfOpen(Both) }, func() { p.HalfOpen(ToClient) },
		func() { p.HalfOpen(ToUpstream) }, func() { p.Delay(10*time.Millisecond, 10*time.Millisecond) }, func() { p.Slow(1000) }}
	for range 300 {
		faults[rand.IntN(len(faults))]()
		time.Sleep(time.Duration(rand.IntN(5)) * time.Millisecond) // any moment will do
	}
	close(stop)
	group.Wait()
	p.Heal()
	c.mustAnswer(patience)
}
