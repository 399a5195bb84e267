package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// rotating is a caller that shows its newest SVID on each new connection.
type rotating struct {
	r    *rig
	cert atomic.Pointer[tls.Certificate]
	*http.Client
}

func (r *rig) rotating(http2 bool) *rotating {
	c := &rotating{r: r, Client: r.client(http2)}
	c.Transport.(*http.Transport).TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return c.cert.Load(), nil
	}
	c.rotate()
	own := r.ca.issue(r.tb, "/proxy", func(cert *x509.Certificate) { cert.NotAfter = time.Now().Add(20 * time.Hour) })
	r.wl.set(r.tb, []tls.Certificate{own}, r.ca)
	r.eventually("the proxy's long SVID", func() bool { return r.proxy.self.current.Load().notAfter.Equal(own.Leaf.NotAfter) })
	return c
}

// rotate gives the caller an SVID for another hour of the proxy's clock.
func (c *rotating) rotate() {
	cert := c.r.ca.issue(c.r.tb, "/bot", func(cert *x509.Certificate) { cert.NotAfter = c.r.clock.now().Add(time.Hour) })
	c.cert.Store(&cert)
}

// serial gives which SVID a request of the caller was made with.
func (c *rotating) serial() string {
	c.r.tb.Helper()
	g := c.r.mustDo(c.Client, "GET", "/echo/x", "", nil)
	if g.status != 200 {
		c.r.tb.Fatal(g.status, g.body)
	}
	return c.r.recordOf(g.header.Get("X-Request-Id")).Serial
}

// A caller that keeps its connection is asked to leave it in time, and comes
// back with its next SVID.
func TestCallerRotates(t *testing.T) {
	protocols(t, func(t *testing.T, http2 bool) {
		r := start(t)
		caller := r.rotating(http2)
		first := caller.serial()
		caller.rotate()
		r.clock.advance(35 * time.Minute)
		if caller.serial() != first {
			t.Error("a connection with much life left was given up")
		}
		r.clock.advance(10 * time.Minute)
		caller.serial() // still answered, and asked to leave
		r.eventually("the caller to use its next SVID", func() bool { return caller.serial() == serialOf(*caller.cert.Load()) })
	})
}

// A caller without a newer SVID is not asked again at each request.
func TestCallerRotatesLate(t *testing.T) {
	protocols(t, func(t *testing.T, http2 bool) {
		r := start(t)
		caller := r.rotating(http2)
		connection := func() string {
			g := r.mustDo(caller.Client, "GET", "/echo/x", "", nil)
			return r.recordOf(g.header.Get("X-Request-Id")).Remote
		}
		now := connection()
		for _, minutes := range []time.Duration{45, 11} { // each past two thirds of what is left
			if connection() != now {
				t.Error("a new connection was left at once")
			}
			r.clock.advance(minutes * time.Minute)
			if connection() != now {
				t.Error("the answer did not come over the old connection")
			}
			r.eventually("the caller to connect anew", func() bool { return connection() != now })
			now = connection()
		}
	})
}

// No request is lost over many rotations. Over HTTP/1.1 that holds for requests
// that can't be repeated, too; over HTTP/2 one that crosses the GOAWAY is
// repeated by the client (RFC 9113 section 6.8).
//
// Time goes on in steps, and only when every caller has been answered in the
// last one: a connection that nobody used for an hour would be over.
func TestRotationLosesNothing(t *testing.T) {
	protocols(t, func(t *testing.T, http2 bool) {
		r := start(t)
		callers := make([]*rotating, 4)
		answered := make([]atomic.Int64, len(callers))
		for i := range callers {
			callers[i] = r.rotating(http2)
		}
		stop := make(chan struct{})
		var running sync.WaitGroup
		for i, caller := range callers {
			running.Go(func() { caller.postUntil(stop, http2, &answered[i]) })
		}
		for minute := 0; minute < 200; minute += 5 {
			if minute%40 == 0 {
				for _, caller := range callers {
					caller.rotate()
				}
			}
			r.clock.advance(5 * time.Minute)
			for i := range answered {
				before := answered[i].Load()
				r.eventually("requests after the step", func() bool { return answered[i].Load() > before+2 || t.Failed() })
			}
		}
		close(stop)
		running.Wait()
	})
}

// postUntil sends one request after the other until stop, or one is lost.
func (c *rotating) postUntil(stop <-chan struct{}, repeatable bool, answered *atomic.Int64) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		if err := c.post(repeatable); err != nil {
			c.r.tb.Error(err)
			return
		}
		answered.Add(1)
	}
}

// post sends a body, which the client can send twice if repeatable.
func (c *rotating) post(repeatable bool) error {
	var body io.Reader = strings.NewReader("body")
	if !repeatable {
		body = io.MultiReader(body)
	}
	resp, err := c.Post("https://"+c.r.addr+"/echo/x", "text/plain", body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != 200 {
		return fmt.Errorf("status %d, %v", resp.StatusCode, err)
	}
	return nil
}

// An idle connection is closed before its SVID expires: the next request would
// be refused on it.
func TestIdleConnectionEndsBeforeItsSVID(t *testing.T) {
	r := start(t, withConfig(func(c *Config) { c.ExpiryGrace = time.Hour }))
	short := r.ca.issue(t, "/bot", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(4 * time.Second) })
	dial := func(cert tls.Certificate) net.Conn {
		config := tlsClient(cert)
		config.NextProtos = []string{"http/1.1"}
		conn, err := tls.Dial("tcp", r.addr, config)
		must(t, err)
		must(t, conn.SetReadDeadline(short.Leaf.NotAfter))
		return conn
	}
	idle, kept := dial(short), dial(r.ca.issue(t, "/bot"))
	defer idle.Close()
	defer kept.Close()
	if _, err := idle.Read(make([]byte, 1)); isTimeout(err) {
		t.Error("it was kept")
	}
	if _, err := kept.Read(make([]byte, 1)); !isTimeout(err) {
		t.Error("one with much life left was closed:", err)
	}
}

func isTimeout(err error) bool {
	t, ok := err.(interface{ Timeout() bool })
	return ok && t.Timeout()
}
