package proxy

import (
	"crypto/tls"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Bodies that wait to be judged share one bounded memory, of which one caller
// gets a part; what is judged and sent gives its part back.
func TestBodyMemory(t *testing.T) {
	r := start(t, withConfig(func(c *Config) { c.MaxBufferedBytes, c.Routes[0].MaxBodyBytes = 1<<20, 256<<10-1 }))
	half := `{"model":"customer-service-llm","a":"` + strings.Repeat("a", 100<<10)
	hold := func(cert tls.Certificate) io.Closer {
		conn, err := tls.Dial("tcp", r.addr, tlsClient(cert))
		must(t, err)
		t.Cleanup(func() { conn.Close() })
		_, err = io.WriteString(conn, "POST /v1/chat/completions HTTP/1.1\r\nHost: p\r\nContent-Type: application/json\r\nContent-Length: 200000\r\n\r\n"+half)
		must(t, err)
		return conn
	}
	taken := func() int64 {
		r.proxy.memory.mu.Lock()
		defer r.proxy.memory.mu.Unlock()
		return r.proxy.memory.taken
	}
	bot, other := r.ca.issue(t, "/sales-bot"), r.ca.issue(t, "/finance-bot")
	ask := func(cert tls.Certificate, model string) got {
		return r.mustDo(r.client(false, cert), "POST", "/v1/chat/completions", strings.Replace(half, "customer-service-llm", model, 1)+`"}`, nil)
	}
	one, two := hold(bot), hold(bot)
	r.eventually("two bodies to arrive", func() bool { return taken() >= 200<<10 })
	t.Run("P-58/memory/refused", func(t *testing.T) {
		if g := ask(bot, "customer-service-llm"); g.status != 503 || g.reason() != "memory-full" || g.header.Get("Retry-After") != "1" {
			t.Error(g.status, g.header, g.body)
		}
	})
	t.Run("P-58/memory/other-caller/twin", func(t *testing.T) {
		if g := ask(other, "financial-analysis-llm"); g.status != 200 {
			t.Error(g.status, g.body)
		}
	})
	one.Close()
	two.Close()
	r.eventually("the memory to be given back", func() bool { return taken() == 0 })
	t.Run("P-58/memory/twin", func(t *testing.T) {
		if g := ask(bot, "customer-service-llm"); g.status != 200 {
			t.Error(g.status, g.body)
		}
	})
	t.Run("P-58/memory/config/refused", func(t *testing.T) {
		if err := newWith(t, func(c *Config) { c.Routes[0].LLM, c.MaxBufferedBytes = true, 39<<20 }); err == nil || !strings.Contains(err.Error(), "max_buffered_bytes") {
			t.Error(err)
		}
	})
	t.Run("P-58/memory/config/twin", func(t *testing.T) {
		must(t, newWith(t, func(c *Config) { c.Routes[0].LLM, c.MaxBufferedBytes = true, 40<<20 }))
	})
}

// While the answer runs its request's body is not kept.
func TestBodyIsLetGo(t *testing.T) {
	running, release := make(chan struct{}), make(chan struct{})
	r := start(t, withUpstream(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		raw, _ := io.ReadAll(req.Body)
		_, _ = io.WriteString(w, strconv.Itoa(len(raw)))
		_ = http.NewResponseController(w).Flush()
		close(running)
		<-release
	})))
	client := r.client(true, r.ca.issue(t, "/sales-bot"))
	answer := make(chan got, 1)
	go func() { g, _ := r.do(client, "POST", "/v1/chat/completions", chatSales, nil); answer <- g }()
	<-running
	r.eventually("the body's memory to be given back", func() bool {
		r.proxy.memory.mu.Lock()
		defer r.proxy.memory.mu.Unlock()
		return r.proxy.memory.taken == 0 && r.proxy.peers.running() == 1
	})
	close(release)
	if g := <-answer; g.body != strconv.Itoa(len(chatSales)) {
		t.Errorf("%d %q", g.status, g.body)
	}
}

// Nobody listens to a caller that no policy allows, whatever it would say.
func TestBodyOfNobody(t *testing.T) {
	r := start(t, withConfig(func(c *Config) { c.IdleTimeout = 15 * time.Second }))
	request := "POST /v1/chat/completions HTTP/1.1\r\nHost: p\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: " + strconv.Itoa(len(chatSales)) + "\r\n\r\n"
	t.Run("P-62/llm/refused", func(t *testing.T) {
		r := r.as(t)
		if g := r.raw(r.ca.issue(t, "/stranger"), request); g.status != 403 || g.reason() != "policy" {
			t.Error(g.status, g.body)
		}
	})
	t.Run("P-62/llm/twin", func(t *testing.T) {
		r := r.as(t)
		if g := r.raw(r.ca.issue(t, "/sales-bot"), request); g.status != 100 {
			t.Error(g.status, g.body)
		}
	})
}
