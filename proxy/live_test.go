package proxy

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/policy"
)

func protocols(t *testing.T, test func(t *testing.T, http2 bool)) {
	t.Run("h1", func(t *testing.T) { test(t, false) })
	t.Run("h2", func(t *testing.T) { test(t, true) })
}

// ticker is an upstream that sends a line of a stream whenever told to, and
// tells when its caller has left. A stream is named by its path.
type ticker struct {
	streams map[string]chan string
	left    chan string
}

func newTicker() *ticker {
	return &ticker{left: make(chan string, 16), streams: map[string]chan string{
		"/stream/a": make(chan string), "/stream/b": make(chan string),
	}}
}

func (u *ticker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	lines := u.streams[r.URL.Path]
	if lines == nil {
		_, _ = io.WriteString(w, "plain")
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush()
	for {
		select {
		case <-r.Context().Done():
			u.left <- r.URL.Path
			return
		case text := <-lines:
			_, _ = io.WriteString(w, "data: "+text+"\n\n")
			_ = http.NewResponseController(w).Flush()
		}
	}
}

// open starts a stream and checks that its pieces arrive one by one.
func (r *rig) open(u *ticker, client *http.Client, path string) *http.Response {
	r.tb.Helper()
	resp, err := client.Get("https://" + r.addr + path)
	must(r.tb, err)
	r.tb.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != 200 {
		r.tb.Fatalf("status %d", resp.StatusCode)
	}
	for _, text := range []string{"one", "two"} {
		u.more(r.tb, resp, path, text) // the upstream sends no more until this has arrived
	}
	return resp
}

// more makes the upstream send one line, and reads it.
func (u *ticker) more(tb testing.TB, resp *http.Response, path, text string) {
	tb.Helper()
	select {
	case u.streams[path] <- text:
	case <-time.After(within):
		tb.Fatal("the upstream no longer serves", path)
	}
	line := make([]byte, len("data: "+text+"\n\n"))
	if _, err := io.ReadFull(resp.Body, line); err != nil || string(line) != "data: "+text+"\n\n" {
		tb.Fatalf("read %q, %v", line, err)
	}
}

// cutWithin fails unless the stream breaks off in time, and not as if complete.
func cutWithin(t *testing.T, resp *http.Response, limit time.Duration) {
	t.Helper()
	ended := make(chan error, 1)
	go func() { _, err := io.Copy(io.Discard, resp.Body); ended <- err }()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("the stream ended as if it were complete")
		}
	case <-time.After(limit):
		t.Errorf("the stream still runs after %s", limit)
		resp.Body.Close()
		<-ended
	}
}

func x509Revocation(cert tls.Certificate) identity.Revocation {
	return identity.Revocation{Kind: identity.X509, Serial: serialOf(cert), SPIFFEID: cert.Leaf.URIs[0].String(), ExpiresAt: cert.Leaf.NotAfter}
}

// within is the bound of RV-2, with room for a loaded machine.
const within = 5 * time.Second

func TestRevocation(t *testing.T) {
	protocols(t, func(t *testing.T, http2 bool) {
		u := newTicker()
		r := start(t, withUpstream(u))
		cert, other := r.ca.issue(t, "/bot"), r.ca.issue(t, "/bot")
		client, otherClient := r.client(http2, cert), r.client(http2, other)
		stream, otherStream := r.open(u, client, "/stream/a"), r.open(u, otherClient, "/stream/b")
		must(t, sink{r.proxy}.ApplyRevocations([]identity.Revocation{x509Revocation(cert)}))
		t.Run("RV-2/refused", func(t *testing.T) { cutWithin(t, stream, within) })
		t.Run("P-68/upstream-told", func(t *testing.T) {
			select {
			case path := <-u.left:
				if path != "/stream/a" {
					t.Error("cut off", path)
				}
			case <-time.After(within):
				t.Error("the upstream still serves")
			}
		})
		t.Run("V-40/refused", func(t *testing.T) {
			r := r.as(t)
			before := r.refusals()["revoked"]
			if g, err := r.do(client, "GET", "/echo/x", "", nil); err == nil {
				t.Errorf("answered %d", g.status)
			}
			r.eventually("the refusal to be counted", func() bool { return r.refusals()["revoked"] > before })
		})
		t.Run("V-40/twin", func(t *testing.T) {
			r := r.as(t)
			if g := r.mustDo(otherClient, "GET", "/echo/x", "", nil); g.status != 200 {
				t.Error(g.status, g.body)
			}
			u.more(t, otherStream, "/stream/b", "three")
		})
		r.eventually("the audit line of the cut", func() bool {
			for _, rec := range r.records() {
				if rec.End == "cut" && rec.Reason == "svid-revoked" && rec.Serial == serialOf(cert) {
					return true
				}
			}
			return false
		})
	})
}

// A policy that is taken away ends what runs under it, and nothing else.
func TestPolicyChange(t *testing.T) {
	protocols(t, func(t *testing.T, http2 bool) {
		u := newTicker()
		r := start(t, withUpstream(u))
		bot, friend := r.client(http2, r.ca.issue(t, "/bot")), r.client(http2, r.ca.issue(t, "/friend"))
		stream, kept := r.open(u, bot, "/stream/a"), r.open(u, friend, "/stream/b")
		r.setPolicies(append(samplePolicies(), policy.Policy{Name: "ban", Effect: policy.Deny, Subjects: []string{"spiffe://td.test/bot"},
			Service: "stream", Methods: []string{"*"}, Paths: []string{"/**"}})...)
		t.Run("V-48/refused", func(t *testing.T) { cutWithin(t, stream, within) })
		t.Run("P-2/refused", func(t *testing.T) {
			if g := r.as(t).mustDo(bot, "GET", "/stream/a", "", nil); g.status != 403 || g.reason() != "policy" {
				t.Error(g.status, g.body)
			}
		})
		t.Run("P-2/twin", func(t *testing.T) {
			if g := r.as(t).mustDo(bot, "GET", "/echo/x", "", nil); g.status != 200 {
				t.Error(g.status, g.body)
			}
		})
		t.Run("V-48/twin", func(t *testing.T) {
			u.more(t, kept, "/stream/b", "three")
		})
	})
}

// A request that waits for its upstream when the policy goes gets 403.
func TestPolicyChangeBeforeAnswer(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	defer close(release)
	r := start(t, withUpstream(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		close(arrived)
		select {
		case <-req.Context().Done():
		case <-release:
		}
	})))
	result := make(chan got, 1)
	client := r.client(false, r.ca.issue(t, "/bot"))
	go func() { g, _ := r.do(client, "GET", "/echo/x", "", nil); result <- g }()
	<-arrived
	r.setPolicies()
	select {
	case g := <-result:
		if g.status != 403 {
			t.Errorf("status %d: %s", g.status, g.body)
		}
	case <-time.After(within):
		t.Error("the request still waits")
	}
}

func TestExpiry(t *testing.T) {
	protocols(t, func(t *testing.T, http2 bool) {
		u := newTicker()
		r := start(t, withUpstream(u), withConfig(func(c *Config) { c.ExpiryGrace = 200 * time.Millisecond }))
		short := r.ca.issue(t, "/bot", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(3 * time.Second) })
		long := r.ca.issue(t, "/bot")
		stream := r.open(u, r.client(http2, short), "/stream/a")
		keep := r.open(u, r.client(http2, long), "/stream/b")
		t.Run("V-47/refused", func(t *testing.T) { cutWithin(t, stream, 3*time.Second+within) })
		t.Run("V-47/twin", func(t *testing.T) {
			u.more(t, keep, "/stream/b", "three")
		})
	})
	protocols(t, func(t *testing.T, http2 bool) {
		r := start(t, withUpstream(newTicker()))
		client := r.client(http2, r.ca.issue(t, "/bot"))
		t.Run("P-3/twin", func(t *testing.T) {
			if g := r.as(t).mustDo(client, "GET", "/echo/x", "", nil); g.status != 200 {
				t.Error(g.status, g.body)
			}
		})
		r.clock.advance(61 * time.Minute)
		t.Run("P-3/refused", func(t *testing.T) {
			if g := r.as(t).mustDo(client, "GET", "/echo/x", "", nil); g.status != 403 || g.reason() != "svid-expired" {
				t.Error(g.status, g.body)
			}
		})
	})
}

// A resumed session is verified like a new one.
func TestResumption(t *testing.T) {
	for name, version := range map[string]uint16{"tls12": tls.VersionTLS12, "tls13": tls.VersionTLS13} {
		for _, change := range []string{"none", "revoked", "bundle-removed", "expired"} {
			verdict := map[bool]string{true: "/twin", false: "/refused"}[change == "none"]
			t.Run("V-43/"+name+"/"+change+verdict, func(t *testing.T) { resume(t, version, change) })
		}
	}
}

func resume(t *testing.T, version uint16, change string) {
	r := start(t, withUpstream(newTicker()))
	partner := newAuthority(t, "partner.test")
	own := r.ca.issue(t, "/proxy")
	r.wl.set(t, []tls.Certificate{own}, r.ca, partner)
	r.eventually("the partner's bundle", func() bool { return r.proxy.self.current.Load().bundles.Len() == 2 })
	r.setPolicies(policy.Policy{Name: "p", Effect: policy.Allow, Subjects: []string{"spiffe://partner.test/**"}, Service: "echo", Methods: []string{"GET"}, Paths: []string{"/**"}})
	cert := partner.issue(t, "/bot")
	config := tlsClient(cert)
	config.MaxVersion, config.ClientSessionCache, config.ServerName = version, tls.NewLRUClientSessionCache(4), "proxy.test"
	if status, resumed, err := askOnce(r, config); err != nil || status != 200 || resumed {
		t.Fatal(status, resumed, err)
	}
	switch change {
	case "revoked":
		must(t, sink{r.proxy}.ApplyRevocations([]identity.Revocation{x509Revocation(cert)}))
	case "bundle-removed":
		r.wl.set(t, []tls.Certificate{own}, r.ca)
		r.eventually("the partner's bundle to go", func() bool { return r.proxy.self.current.Load().bundles.Len() == 1 })
	case "expired":
		r.wl.set(t, []tls.Certificate{r.ca.issue(t, "/proxy", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(9 * time.Hour) })}, r.ca, partner)
		r.eventually("the proxy's longer SVID", func() bool { return time.Until(r.proxy.self.current.Load().notAfter) > 8*time.Hour })
		r.clock.advance(2 * time.Hour)
	}
	status, resumed, err := askOnce(r, config)
	if change == "none" {
		if err != nil || status != 200 || !resumed {
			t.Errorf("status %d, resumed %v, %v", status, resumed, err)
		}
		return
	}
	if err == nil {
		t.Errorf("a connection of a caller that is %s was answered with %d (resumed: %v)", change, status, resumed)
	}
}

// A change that comes between the verification of a caller and its first
// request finds no connection to close yet.
func TestChangeDuringHandshake(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*rig, tls.Certificate)
		status int // 0 for no answer at all
	}{
		{"none/twin", func(*rig, tls.Certificate) {}, 200},
		{"revoked/refused", func(r *rig, cert tls.Certificate) {
			must(r.tb, sink{r.proxy}.ApplyRevocations([]identity.Revocation{x509Revocation(cert)}))
		}, 403},
		{"bundle-removed/refused", func(r *rig, _ tls.Certificate) { r.trust(x509bundle.NewSet()) }, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			change := make(chan func(), 1)
			r := start(t, func(r *rig) { r.verified = func() { (<-change)() } })
			cert := r.ca.issue(t, "/bot")
			change <- func() { c.change(r, cert) }
			status, _, err := askOnce(r, tlsClient(cert))
			if status != c.status || (err == nil) != (c.status != 0) {
				t.Errorf("status %d, %v; want status %d", status, err, c.status)
			}
		})
	}
}

// askOnce makes one request on a connection of its own and waits for what the
// server sends with it, such as session tickets.
func askOnce(r *rig, config *tls.Config) (status int, resumed bool, err error) {
	conn, err := tls.Dial("tcp", r.addr, config)
	if err != nil {
		return 0, false, err
	}
	defer conn.Close()
	must(r.tb, conn.SetDeadline(time.Now().Add(20*time.Second)))
	_, _ = io.WriteString(conn, "GET /echo/x HTTP/1.1\r\nHost: proxy.test\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, conn.ConnectionState().DidResume, err
	}
	resp.Body.Close()
	return resp.StatusCode, conn.ConnectionState().DidResume, nil
}

// Connections of a trust domain that is no longer trusted are closed.
func TestBundleRemoved(t *testing.T) {
	u := newTicker()
	r := start(t, withUpstream(u))
	partner := newAuthority(t, "partner.test")
	own := r.ca.issue(t, "/proxy")
	r.wl.set(t, []tls.Certificate{own}, r.ca, partner)
	r.eventually("the partner's bundle", func() bool { return r.proxy.self.current.Load().bundles.Len() == 2 })
	r.setPolicies(append(samplePolicies(), policy.Policy{Name: "p", Effect: policy.Allow, Subjects: []string{"spiffe://partner.test/**"},
		Service: "stream", Methods: []string{"GET"}, Paths: []string{"/**"}})...)
	stream := r.open(u, r.client(true, partner.issue(t, "/bot")), "/stream/a")
	kept := r.open(u, r.client(true, r.ca.issue(t, "/bot")), "/stream/b")
	r.wl.set(t, []tls.Certificate{own}, r.ca)
	t.Run("P-1/refused", func(t *testing.T) { cutWithin(t, stream, within) })
	t.Run("P-1/twin", func(t *testing.T) {
		u.more(t, kept, "/stream/b", "three")
	})
}

func TestRotation(t *testing.T) {
	r := start(t)
	config := tlsClient(r.ca.issue(t, "/bot"))
	serial := func() string {
		conn, err := tls.Dial("tcp", r.addr, config)
		must(t, err)
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	client := r.client(true, r.ca.issue(t, "/bot"))
	first := serial()
	for range 3 {
		if g := r.mustDo(client, "GET", "/echo/x", "", nil); g.status != 200 {
			t.Fatal(g.status, g.body)
		}
		next := r.ca.issue(t, "/proxy")
		r.wl.set(t, []tls.Certificate{next}, r.ca)
		r.eventually("the new SVID", func() bool { return serial() == next.Leaf.SerialNumber.String() })
	}
	if serial() == first {
		t.Error("the proxy still shows its first SVID")
	}
}

// A caller that leaves ends the upstream's work.
func TestCallerLeaves(t *testing.T) {
	protocols(t, func(t *testing.T, http2 bool) {
		u := newTicker()
		r := start(t, withUpstream(u))
		stream := r.open(u, r.client(http2, r.ca.issue(t, "/bot")), "/stream/a")
		stream.Body.Close()
		select {
		case <-u.left:
		case <-time.After(within):
			t.Error("P-68: the upstream still serves")
		}
		r.eventually("its audit line", func() bool {
			list := r.records()
			return len(list) == 1 && list[0].End == endClient && list[0].Bytes == int64(len("data: one\n\ndata: two\n\n"))
		})
	})
}

// An upstream that breaks off is not made to look complete.
func TestTruncation(t *testing.T) {
	r := start(t, withUpstream(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch req.URL.RawQuery {
		case "length":
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "half")
		case "chunked":
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		case "whole":
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
			_, _ = io.WriteString(w, "other")
		}
	})))
	protocols(t, func(t *testing.T, http2 bool) {
		client := r.client(http2, r.ca.issue(t, "/bot"))
		for _, how := range []string{"length", "chunked"} {
			t.Run("P-36/"+how+"/refused", func(t *testing.T) {
				r := r.as(t)
				if g, err := r.do(client, "GET", "/echo/x?"+how, "", nil); err == nil {
					t.Errorf("a clean %d: %q", g.status, g.body)
				}
				r.eventually("its audit line", func() bool {
					list := r.records()
					return len(list) > 0 && list[len(list)-1].End == endUpstream
				})
			})
		}
		t.Run("P-36/twin", func(t *testing.T) {
			if g := r.as(t).mustDo(client, "GET", "/echo/x?whole", "", nil); g.body != "halfother" {
				t.Errorf("%q", g.body)
			}
		})
	})
}

// Slow callers lose their connection, and nobody else's.
func TestSlowCallers(t *testing.T) {
	flood := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch req.URL.RawQuery {
		case "quiet": // for longer than the idle time
			_, _ = io.WriteString(w, "first ")
			_ = http.NewResponseController(w).Flush()
			time.Sleep(700 * time.Millisecond)
			_, _ = io.WriteString(w, "last")
			return
		case "":
			_, _ = io.Copy(w, req.Body)
			return
		}
		for req.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	})
	r := start(t, withUpstream(flood), withConfig(func(c *Config) { c.IdleTimeout = 300 * time.Millisecond }))
	cert := r.ca.issue(t, "/bot")
	t.Run("P-35/slow-body/refused", func(t *testing.T) {
		r := r.as(t)
		g := r.raw(r.ca.issue(t, "/sales-bot"), "POST /v1/chat/completions HTTP/1.1\r\nHost: p\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{")
		if g.status != 408 || g.reason() != "body-unread" {
			t.Error(g.status, g.body)
		}
	})
	t.Run("P-35/slow-reader/refused", func(t *testing.T) {
		r := r.as(t)
		conn, err := tls.Dial("tcp", r.addr, tlsClient(cert))
		must(t, err)
		defer conn.Close()
		_, err = io.WriteString(conn, get("/echo/x?flood"))
		must(t, err)
		r.eventually("the reader to be given up", func() bool {
			list := r.records()
			return len(list) > 0 && list[len(list)-1].End == endClient
		})
	})
	for _, http2 := range []bool{false, true} {
		client := r.client(http2, cert)
		t.Run(fmt.Sprintf("P-35/slow-reader-http2-%v/refused", http2), func(t *testing.T) {
			r := r.as(t)
			seen := len(r.records())
			resp, err := client.Get("https://" + r.addr + "/echo/x?flood")
			must(t, err)
			defer resp.Body.Close()
			r.eventually("the reader to be given up", func() bool {
				list := r.records()
				return len(list) > seen && list[len(list)-1].End == endClient && list[len(list)-1].Status == 200
			})
		})
		t.Run(fmt.Sprintf("P-35/quiet-answer-http2-%v/twin", http2), func(t *testing.T) {
			if g := r.as(t).mustDo(client, "GET", "/echo/x?quiet", "", nil); g.body != "first last" {
				t.Errorf("%q", g.body)
			}
		})
	}
	t.Run("P-35/twin", func(t *testing.T) {
		r := r.as(t)
		conn, err := tls.Dial("tcp", r.addr, tlsClient(cert))
		must(t, err)
		defer conn.Close()
		_, err = io.WriteString(conn, "POST /echo/x HTTP/1.1\r\nHost: p\r\nContent-Length: 6\r\n\r\n")
		must(t, err)
		for range 6 { // longer than the idle time in all, never a pause as long
			time.Sleep(100 * time.Millisecond)
			_, err = io.WriteString(conn, "x")
			must(t, err)
		}
		if g := readAnswer(t, bufio.NewReader(conn)); g.status != 200 || g.body != "xxxxxx" {
			t.Error(g.status, g.body)
		}
	})
}

// On a signal to stop, what runs is finished, and then the process can end.
func TestDrain(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	r := start(t, withUpstream(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(arrived)
		<-release
		_, _ = io.WriteString(w, "finished")
	})), withConfig(func(c *Config) { c.DrainTimeout = within }))
	result := make(chan got, 1)
	client := r.client(false, r.ca.issue(t, "/bot"))
	go func() { g, _ := r.do(client, "GET", "/echo/x", "", nil); result <- g }()
	<-arrived
	r.stop()
	r.eventually("the listener to close", func() bool {
		conn, err := net.Dial("tcp", r.addr)
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	close(release)
	if g := <-result; g.body != "finished" {
		t.Errorf("%d %q", g.status, g.body)
	}
	<-r.ended
	if list := r.records(); len(list) != 1 || list[0].End != endComplete {
		t.Errorf("audit: %+v", list)
	}
}

// A stream that does not end is cut when the time to drain is over.
func TestDrainCutsStreams(t *testing.T) {
	u := newTicker()
	r := start(t, withUpstream(u), withConfig(func(c *Config) { c.DrainTimeout = 100 * time.Millisecond }))
	stream := r.open(u, r.client(true, r.ca.issue(t, "/bot")), "/stream/a")
	r.stop()
	cutWithin(t, stream, within)
	<-r.ended
}
