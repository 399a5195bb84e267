package proxy

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

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

// BenchmarkProxyH1 is one request after the other on one connection, with the
// client, the proxy and the upstream in this process.
func BenchmarkProxyH1(b *testing.B) {
	for _, row := range []struct{ name, text string }{
		{"echo", "GET /echo/x HTTP/1.1\r\nHost: p\r\n\r\n"},
		{"chat", fmt.Sprintf("POST /v1/chat/completions HTTP/1.1\r\nHost: p\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(chatSales), chatSales)},
	} {
		b.Run(row.name, func(b *testing.B) {
			r := start(b, withUpstream(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				_, _ = io.Copy(io.Discard, req.Body)
				w.Header()["Content-Length"] = []string{"5"}
				_, _ = io.WriteString(w, "hello")
			})))
			conn, err := tls.Dial("tcp", r.addr, tlsClient(r.ca.issue(b, "/sales-bot")))
			must(b, err)
			defer conn.Close()
			benchRequests(b, conn, row.text)
		})
	}
}

// BenchmarkFloorH1 is the same client and upstream with nothing but TLS in
// between.
func BenchmarkFloorH1(b *testing.B) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Content-Length"] = []string{"5"}
		_, _ = io.WriteString(w, "hello")
	}))
	defer s.Close()
	conn, err := tls.Dial("tcp", strings.TrimPrefix(s.URL, "https://"), tlsClient())
	must(b, err)
	defer conn.Close()
	benchRequests(b, conn, "GET /echo/x HTTP/1.1\r\nHost: p\r\n\r\n")
}

func benchRequests(b *testing.B, conn io.ReadWriter, text string) {
	b.Helper()
	in, request := bufio.NewReader(conn), []byte(text)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := conn.Write(request); err != nil {
			b.Fatal(err)
		}
		resp, err := http.ReadResponse(in, nil)
		if err != nil || resp.StatusCode != 200 {
			b.Fatal(err)
		}
		var body bytes.Buffer
		if _, err := body.ReadFrom(resp.Body); err != nil || body.String() != "hello" {
			b.Fatal(body.String(), err)
		}
	}
}
