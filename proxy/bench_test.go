package proxy

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/authsec-ai/icp/policy"
	"github.com/authsec-ai/icp/proxy/llm"
)

// BenchmarkDecisionPath is the chain from a parsed request to the decision,
// with 10,000 policies in force.
func BenchmarkDecisionPath(b *testing.B) {
	r := start(b)
	list := samplePolicies()
	for i := range 10000 {
		list = append(list, policy.Policy{Name: fmt.Sprint("p", i), Effect: policy.Allow, Subjects: []string{fmt.Sprintf("spiffe://td.test/bots/%d", i)},
			Service: "llm", Methods: []string{"POST"}, Paths: []string{"/v1/**"}, Models: []string{"m"}})
	}
	r.setPolicies(list...)
	question := policy.Request{Subject: r.proxy.self.current.Load().id, Service: "llm", Method: "POST", Path: "/v1/chat/completions"}
	question.Subject, _ = question.Subject.ReplacePath("/sales-bot")
	body := []byte(chatSales)
	header := http.Header{"Content-Type": {"application/json"}}
	b.ReportAllocs()
	for b.Loop() {
		where, refusal := parseTarget("/v1/chat/completions")
		backend := r.proxy.table.Match(where.path)
		endpoint := llm.Match("POST", backend.Rest(where.path))
		model, err := llm.ModelOf(endpoint, where.query, header, body)
		question.Model = model
		if d := r.proxy.engine.Decide(question); refusal != nil || err != nil || !d.Allowed {
			b.Fatal(refusal, err, d)
		}
	}
}

// BenchmarkAuditLine is one line of the audit file, in memory.
func BenchmarkAuditLine(b *testing.B) {
	var line []byte
	b.ReportAllocs()
	for b.Loop() {
		line = sampleRecord.appendTo(line[:0])
	}
}

// BenchmarkProxyH1 has the client, the proxy and the upstream in this process.
func BenchmarkProxyH1(b *testing.B) {
	for _, row := range []struct{ name, text string }{
		{"echo", echoText},
		{"chat", fmt.Sprintf("POST /v1/chat/completions HTTP/1.1\r\nHost: p\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(chatSales), chatSales)},
	} {
		b.Run(row.name, func(b *testing.B) {
			r := start(b, withUpstream(http.HandlerFunc(hello)))
			benchRequests(b, r.addr, tlsClient(r.ca.issue(b, "/sales-bot")), row.text)
		})
	}
}

// BenchmarkProxyH2 has some streams at a time on one connection.
func BenchmarkProxyH2(b *testing.B) {
	r := start(b, withUpstream(http.HandlerFunc(hello)))
	client := r.client(true, r.ca.issue(b, "/sales-bot"))
	b.ReportAllocs()
	b.SetParallelism(8)
	defer reportCPU(b)()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			resp, err := client.Get("https://" + r.addr + "/echo/x")
			if err != nil {
				b.Error(err)
				return
			}
			_, err = io.Copy(io.Discard, resp.Body)
			if err = errors.Join(err, resp.Body.Close()); err != nil || resp.StatusCode != http.StatusOK {
				b.Error(resp.Status, err)
				return
			}
		}
	})
}

// BenchmarkProxyEvent is one server-sent event of a long answer, which the
// upstream sends as fast as they pass.
func BenchmarkProxyEvent(b *testing.B) {
	next := make(chan struct{})
	r := start(b, withUpstream(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for range next {
			_, _ = io.WriteString(w, "data: hello\n\n")
			_ = http.NewResponseController(w).Flush()
		}
	})))
	go func() { next <- struct{}{} }()
	resp, err := r.client(false, r.ca.issue(b, "/sales-bot")).Get("https://" + r.addr + "/stream/x")
	must(b, err)
	defer resp.Body.Close()
	in := bufio.NewReader(resp.Body)
	b.ReportAllocs()
	defer reportCPU(b)()
	for b.Loop() {
		if _, err := in.ReadString('\n'); err != nil {
			b.Fatal(err)
		}
		if _, err := in.ReadString('\n'); err != nil {
			b.Fatal(err)
		}
		next <- struct{}{}
	}
	close(next)
}

// BenchmarkPlainH1 is the same client and upstream with net/http's own proxy in
// between, which checks nothing.
func BenchmarkPlainH1(b *testing.B) {
	up := httptest.NewServer(http.HandlerFunc(hello))
	defer up.Close()
	target, err := url.Parse(up.URL)
	must(b, err)
	transport := &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true}
	defer transport.CloseIdleConnections()
	s := httptest.NewTLSServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }, BufferPool: &buffers{},
		Transport: transport,
	})
	defer s.Close()
	benchRequests(b, s.Listener.Addr().String(), tlsClient(), echoText)
}

type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte {
	if kept, ok := b.pool.Get().(*[32 << 10]byte); ok {
		return kept[:]
	}
	return make([]byte, 32<<10)
}

func (b *buffers) Put(buffer []byte) { b.pool.Put((*[32 << 10]byte)(buffer)) }

const echoText = "GET /echo/x HTTP/1.1\r\nHost: p\r\nUser-Agent: bench\r\n\r\n"

func hello(w http.ResponseWriter, req *http.Request) {
	_, _ = io.Copy(io.Discard, req.Body)
	w.Header()["Content-Length"] = []string{"5"}
	_, _ = io.WriteString(w, "hello")
}

// BenchmarkHandshake is one connection with one request after the other.
func BenchmarkHandshake(b *testing.B) {
	for _, row := range []struct {
		name  string
		cache tls.ClientSessionCache
	}{{"full", nil}, {"resumed", tls.NewLRUClientSessionCache(1)}} {
		b.Run(row.name, func(b *testing.B) {
			r := start(b, withUpstream(http.HandlerFunc(hello)))
			config := tlsClient(r.ca.issue(b, "/sales-bot"))
			config.ClientSessionCache, config.CurvePreferences = row.cache, []tls.CurveID{tls.X25519}
			dialed := false
			b.ReportAllocs()
			defer reportCPU(b)()
			for b.Loop() {
				conn, err := tls.Dial("tcp", r.addr, config)
				must(b, err)
				if warm := row.cache != nil && dialed; conn.ConnectionState().DidResume != warm {
					b.Fatal("resumed: ", !warm)
				}
				dialed = true
				if !oneRequest(b, conn, bufio.NewReader(conn), []byte(echoText)) {
					return
				}
				must(b, conn.Close())
			}
		})
	}
}

// BenchmarkFloorH1 is the same client and upstream with nothing but TLS in
// between.
func BenchmarkFloorH1(b *testing.B) {
	s := httptest.NewTLSServer(http.HandlerFunc(hello))
	defer s.Close()
	benchRequests(b, s.Listener.Addr().String(), tlsClient(), echoText)
}

// benchRequests sends one request after the other on each of some connections.
func benchRequests(b *testing.B, addr string, config *tls.Config, text string) {
	b.Helper()
	b.ReportAllocs()
	b.SetParallelism(8)
	defer reportCPU(b)()
	b.RunParallel(func(pb *testing.PB) {
		conn, err := tls.Dial("tcp", addr, config)
		if err != nil {
			b.Error(err)
			return
		}
		defer conn.Close()
		in := bufio.NewReader(conn)
		for pb.Next() && oneRequest(b, conn, in, []byte(text)) {
		}
	})
}

// oneRequest reports whether the answer was right.
func oneRequest(b *testing.B, conn io.Writer, in *bufio.Reader, request []byte) bool {
	b.Helper()
	_, err := conn.Write(request)
	if err != nil {
		b.Error(err)
		return false
	}
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		b.Error(err)
		return false
	}
	var body bytes.Buffer
	if _, err := body.ReadFrom(resp.Body); err != nil || resp.StatusCode != http.StatusOK || body.String() != "hello" {
		b.Error(resp.Status, body.String(), err)
		return false
	}
	return true
}

// reportCPU adds the CPU time of this process from now on, which other load on
// the machine disturbs less than the time that passes.
func reportCPU(b *testing.B) (done func()) {
	before := cpuTime(b)
	return func() { b.ReportMetric(float64((cpuTime(b)-before).Nanoseconds())/float64(b.N), "cpu-ns/op") }
}

func cpuTime(b *testing.B) time.Duration {
	var used syscall.Rusage
	must(b, syscall.Getrusage(syscall.RUSAGE_SELF, &used))
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
