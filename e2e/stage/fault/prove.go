package fault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"
	"time"

	"github.com/authsec-ai/icp/e2e/stage"
)

// Prove asks a web server through a proxy: well, cut, silent, late, slow,
// and well again.
func Prove(t stage.T) stage.Proof {
	t.Helper()
	web := serveHTTP(t)
	from := time.Now()
	p := Start(t, web)
	c := client{t: t, url: "http://" + p.Addr}
	c.mustAnswer(10 * time.Second)
	ready := time.Since(from)

	body := c.hang()
	p.Cut()
	if _, err := io.ReadAll(body); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("a running request ended with %v when the link was cut; want a reset", err)
	}
	if err := c.get(10 * time.Second); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("a request over the cut link ended with %v; want it refused", err)
	}
	p.Heal()
	c.mustAnswer(10 * time.Second)

	const patience = 300 * time.Millisecond
	p.HalfOpen(Both)
	if err := c.get(patience); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a request over the silent link ended with %v; want nothing to come", err)
	}
	p.Heal()
	c.mustAnswer(10 * time.Second)

	const late = 100 * time.Millisecond
	p.Delay(late, 0)
	took := c.mustAnswer(10 * time.Second)
	if took < 2*late {
		t.Fatalf("request and answer took %s over a link that delays each by %s", took, late)
	}
	p.Heal()
	c.mustAnswer(10 * time.Second)

	const slow = 500 // bytes per second; question and answer have more than 100 each
	p.Slow(slow)
	crawled := c.mustAnswer(10 * time.Second)
	if crawled < 2*100*time.Second/slow {
		t.Fatalf("request and answer took %s over a link of %d bytes a second", crawled, slow)
	}
	p.Heal()
	c.mustAnswer(10 * time.Second)
	return stage.Proof{Version: "own", Ready: ready, Fact: fmt.Sprintf(
		"200; cut: ECONNRESET and ECONNREFUSED; half-open: nothing in %s; %s late each way: 200 after %s; %d bytes a second: 200 after %s; healed: 200",
		patience, late, took.Round(time.Millisecond), slow, crawled.Round(time.Millisecond))}
}

// serveHTTP answers GET / at once, and GET /hang with a head and no end.
func serveHTTP(t stage.T) (addr string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("start a web server: %v", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "well") })
	mux.HandleFunc("/hang", func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush() // the client sees if it failed
		<-r.Context().Done()
	})
	server, done := &http.Server{Handler: mux}, make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l) // ends with Close
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	return l.Addr().String()
}

// client asks a web server, each time on a connection of its own.
type client struct {
	t   stage.T
	url string
}

func (c client) do(ctx context.Context, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url+path, nil)
	if err != nil {
		return nil, err
	}
	return (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
}

// get is an error unless all of an answer of 200 comes within limit.
func (c client) get(limit time.Duration) error {
	ctx, cancel := context.WithTimeout(c.t.Context(), limit)
	defer cancel()
	resp, err := c.do(ctx, "/")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.ReadAll(resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

// mustAnswer gives how long the answer of 200 took.
func (c client) mustAnswer(limit time.Duration) time.Duration {
	c.t.Helper()
	from := time.Now()
	if err := c.get(limit); err != nil {
		c.t.Fatalf("a request through a healthy or slow link: %v", err)
	}
	return time.Since(from)
}

// hang gives an answer that has begun and ends, by itself, as one that took too
// long alone.
func (c client) hang() io.Reader {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
	resp, err := c.do(ctx, "/hang")
	if err != nil {
		cancel()
		c.t.Fatalf("begin a request: %v", err)
	}
	c.t.Cleanup(func() { resp.Body.Close(); cancel() })
	return resp.Body
}
