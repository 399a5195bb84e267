package stage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
)

// Publish makes a port of the machine reachable from this host and gives its
// number: what connects to it on this host's loopback gets to the same port of
// the machine's, where something may listen later. It ends with the test.
func (m *Machine) Publish(t T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("publish a machine's port: %v", err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	startRelay(t, l, func(ctx context.Context) (net.Conn, error) {
		return m.DialContext(ctx, "tcp", loopback(port))
	})
	return port
}

// Offer makes a port of this host's loopback reachable in the machine, at the
// same port of each of the machine's addresses. It ends with the test.
func (m *Machine) Offer(t T, port int) {
	t.Helper()
	l, err := m.Listen("tcp", fmt.Sprintf("0.0.0.0:%d", port))
	if err != nil {
		t.Fatalf("offer a port to a machine: %v", err)
	}
	startRelay(t, l, func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", loopback(port))
	})
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// relay hands each connection it accepts to one of its own.
type relay struct {
	ctx    context.Context
	dial   func(context.Context) (net.Conn, error)
	serves sync.WaitGroup
}

// startRelay relays until the test ends, when it closes the listener and every
// connection.
func startRelay(t T, l net.Listener, dial func(context.Context) (net.Conn, error)) {
	ctx, cancel := context.WithCancel(context.Background())
	r := &relay{ctx: ctx, dial: dial}
	var failure error
	r.serves.Go(func() { failure = r.accept(l) })
	t.Cleanup(func() {
		cancel()
		_ = l.Close()
		r.serves.Wait()
		if failure != nil {
			t.Errorf("relay connections: %v", failure)
		}
	})
}

func (r *relay) accept(l net.Listener) error {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		r.serves.Go(func() { r.serve(conn.(*net.TCPConn)) })
	}
}

// serve relays one connection. If the far side can't be reached, the near one
// sees its connection end.
func (r *relay) serve(near *net.TCPConn) {
	defer near.Close()
	conn, err := r.dial(r.ctx)
	if err != nil {
		return
	}
	defer conn.Close()
	far := conn.(*net.TCPConn)
	stop := context.AfterFunc(r.ctx, func() { _ = errors.Join(near.Close(), far.Close()) })
	defer stop()
	var out sync.WaitGroup
	out.Go(func() { pass(far, near) })
	pass(near, far)
	out.Wait()
}

// pass copies until one side ends, and tells the other.
func pass(to, from *net.TCPConn) {
	_, _ = io.Copy(to, from) // how a connection ends is for its two ends to judge
	_ = to.CloseWrite()
}
