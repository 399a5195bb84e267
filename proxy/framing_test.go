package proxy

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// rawRow is a request in bytes. The twin is the same without the defect.
type rawRow struct {
	id     string
	bad    string
	status int
	reason string
	twin   string
}

const (
	getEcho  = "GET /echo/x HTTP/1.1\r\nHost: proxy\r\n\r\n"
	postEcho = "POST /echo/x HTTP/1.1\r\nHost: proxy\r\nContent-Length: 4\r\n\r\nabcd"
	chunked  = "POST /echo/x HTTP/1.1\r\nHost: proxy\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n"
)

func get(target string) string { return "GET " + target + " HTTP/1.1\r\nHost: proxy\r\n\r\n" }

func with(fields string) string {
	return "GET /echo/x HTTP/1.1\r\nHost: proxy\r\n" + fields + "\r\n"
}

func post(fields, body string) string {
	return "POST /echo/x HTTP/1.1\r\nHost: proxy\r\n" + fields + "\r\n" + body
}

func rawRows() []rawRow {
	return []rawRow{
		{"P-18", with("X-A: a\rb\r\n"), 400, "control-character-in-header", with("X-A: ab\r\n")},
		{"P-18-nul", with("X-A: a\x00b\r\n"), 400, "control-character-in-header", with("X-A: ab\r\n")},
		{"P-19", with("X-A: a\r\n b\r\n"), 400, "folded-header-line", with("X-A: a b\r\n")},
		{"P-20", "GET /echo/x HTTP/1.1\nHost: proxy\n\n", 400, "bare-line-feed", getEcho},
		{"P-20-one", "GET /echo/x HTTP/1.1\r\nHost: proxy\nX-A: b\r\n\r\n", 400, "bare-line-feed", with("X-A: b\r\n")},
		{"P-21-bytes", with("X-A: " + strings.Repeat("a", 256<<10) + "\r\n"), 431, "header-too-large", with("X-A: " + strings.Repeat("a", 8<<10) + "\r\n")},
		{"P-21-fields", with(strings.Repeat("X-A: b\r\n", 10000)), 431, "", with(strings.Repeat("X-A: b\r\n", 100))},
		{"P-21-count", with(strings.Repeat("X-A: b\r\n", 200)), 431, "too-many-header-fields", with(strings.Repeat("X-A: b\r\n", 100))},
		{"P-23", post("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), 400, "content-length-and-transfer-encoding", chunked},
		{"P-24", post("Content-Length: 4\r\nContent-Length: 5\r\n", "abcde"), 400, "repeated-content-length", postEcho},
		{"P-25", post("Content-Length: 4\r\nContent-Length: 4\r\n", "abcd"), 400, "repeated-content-length", postEcho},
		{"P-25-list", post("Content-Length: 4, 4\r\n", "abcd"), 400, "malformed-content-length", postEcho},
		{"P-26", post("Content-Length: +4\r\n", "abcd"), 400, "malformed-content-length", postEcho},
		{"P-26-huge", post("Content-Length: 99999999999999999999\r\n", "abcd"), 400, "malformed-content-length", postEcho},
		{"P-27-space", post("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"), 400, "malformed-header-name", chunked},
		{"P-27-coding", post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"), 501, "unsupported-transfer-encoding", chunked},
		{"P-27-list", post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"), 501, "unsupported-transfer-encoding", chunked},
		{"P-27-twice", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), 400, "repeated-transfer-encoding", chunked},
		{"P-28-bare-lf", post("Transfer-Encoding: chunked\r\n", "4\nabcd\r\n0\r\n\r\n"), 400, "malformed-chunk", chunked},
		{"P-28-extension", post("Transfer-Encoding: chunked\r\n", "4;x=y\nz\r\nabcd\r\n0\r\n\r\n"), 400, "malformed-chunk", chunked},
		{"P-28-size", post("Transfer-Encoding: chunked\r\n", "0x4\r\nabcd\r\n0\r\n\r\n"), 400, "malformed-chunk", chunked},
		{"P-28-end", post("Transfer-Encoding: chunked\r\n", "4\r\nabcdX\r\n0\r\n\r\n"), 400, "malformed-chunk", chunked},
		{"P-28-trailer", post("Transfer-Encoding: chunked\r\n", "4\r\nabcd\r\n0\r\nX-Spiffe-Id: x\r\n\r\n"), 400, "trailer-fields", chunked},
		{"P-29", "POST /echo/x HTTP/1.0\r\nHost: proxy\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "transfer-encoding-in-http-1-0", "POST /echo/x HTTP/1.0\r\nHost: proxy\r\nContent-Length: 0\r\n\r\n"},
		{"P-32-trace", "TRACE /echo/x HTTP/1.1\r\nHost: proxy\r\n\r\n", 405, "method-not-allowed", getEcho},
		{"P-32-connect", "CONNECT inside:443 HTTP/1.1\r\nHost: inside:443\r\n\r\n", 405, "method-not-allowed", getEcho},
		{"P-37", get("//echo/x"), 400, "path-not-canonical", getEcho},
		{"P-37-inside", get("/echo//x"), 400, "path-not-canonical", getEcho},
		{"P-38-2f", get("/echo/a%2fb"), 400, "path-not-canonical", get("/echo/a/b")},
		{"P-38-5c", get("/echo/a%5cb"), 400, "path-not-canonical", get("/echo/a/b")},
		{"P-38-backslash", get(`/echo/a\b`), 400, "path-not-canonical", get("/echo/a/b")},
		{"P-39-dots", get("/echo/../admin"), 400, "path-not-canonical", get("/echo/..a/admin")},
		{"P-39-encoded", get("/echo/%2e%2e/admin"), 400, "path-not-canonical", get("/echo/a.b/admin")},
		{"P-39-twice", get("/echo/%252e%252e/admin"), 400, "path-not-canonical", get("/echo/a/admin")},
		{"P-39-dot", get("/echo/./x"), 400, "path-not-canonical", getEcho},
		{"P-39-end", get("/echo/.."), 400, "path-not-canonical", get("/echo/...")},
		{"P-40-dots", get("/echo/..;/x"), 400, "path-not-canonical", getEcho},
		{"P-40-parameter", get("/echo/x;v=1"), 400, "path-not-canonical", get("/echo/x,v=1")},
		{"P-41-nul", get("/echo/a%00"), 400, "path-not-canonical", get("/echo/a")},
		{"P-41-lf", get("/echo/a%0a"), 400, "path-not-canonical", get("/echo/a")},
		{"P-41-utf8", get("/echo/\xff\xfe"), 400, "malformed-target", get("/echo/a")},
		{"P-42", get("/echo/x#frag"), 400, "path-not-canonical", getEcho},
		{"P-42-query", get("/echo/x?a#frag"), 400, "malformed-query", get("/echo/x?a")},
		{"P-43", get("echo/x"), 400, "malformed-target", getEcho},
		{"P-43-star", "OPTIONS * HTTP/1.1\r\nHost: proxy\r\n\r\n", 400, "path-not-canonical", "OPTIONS /echo/x HTTP/1.1\r\nHost: proxy\r\n\r\n"},
		{"P-44", get("https://other/echo/x"), 421, "target-is-not-host", get("https://proxy/echo/x")},
		{"P-45", "get /echo/x HTTP/1.1\r\nHost: proxy\r\n\r\n", 405, "method-not-allowed", getEcho},
		{"P-46", get("/echo/x?a=1;model=b&model=c"), 400, "malformed-query", get("/echo/x?a=1&model=c")},
		{"P-46-encoding", get("/echo/x?a=%zz"), 400, "malformed-target", get("/echo/x?a=%7a")},
		{"P-47-two", "GET /echo/x HTTP/1.1\r\nHost: proxy\r\nHost: proxy\r\n\r\n", 400, "repeated-host", getEcho},
		{"P-47-none", "GET /echo/x HTTP/1.1\r\nX-A: b\r\n\r\n", 400, "missing-host", with("X-A: b\r\n")},
		{"P-47-empty", "GET /echo/x HTTP/1.1\r\nHost:\r\n\r\n", 400, "missing-host", getEcho},
		{"P-48", "GET /echo/x HTTP/1.1\r\nHost: pro@xy\r\n\r\n", 400, "malformed-host", "GET /echo/x HTTP/1.1\r\nHost: PROXY.:8443\r\n\r\n"},
		{"P-48-colons", "GET /echo/x HTTP/1.1\r\nHost: a:b:c\r\n\r\n", 400, "malformed-host", "GET /echo/x HTTP/1.1\r\nHost: [::1]:443\r\n\r\n"},
		{"expectation", with("Expect: magic\r\n"), 417, "unknown-expectation", getEcho},
		{"version", "GET /echo/x HTTP/1.2\r\nHost: proxy\r\n\r\n", 505, "unsupported-http-version", getEcho},
		{"preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "unsupported-http-version", getEcho},
		{"empty-line", "\r\n" + getEcho, 400, "malformed-request-line", getEcho},
		{"spaces", "GET  /echo/x HTTP/1.1\r\nHost: proxy\r\n\r\n", 400, "malformed-request-line", getEcho},
		{"V-53", get("/echo/x?" + strings.Repeat("a&", 1000) + "a"), 400, "malformed-query", get("/echo/x?" + strings.Repeat("a&", 900) + "a")},
	}
}

func TestFraming(t *testing.T) {
	r := start(t)
	cert := r.ca.issue(t, "/bot")
	for _, row := range rawRows() {
		t.Run(row.id+"/refused", func(t *testing.T) {
			r := r.as(t)
			before := r.metric("icp_proxy_decisions_total", `outcome="refused"`)
			g := r.raw(cert, row.bad)
			if g.status != row.status || row.reason != "" && g.reason() != row.reason {
				t.Fatalf("%d %q, want %d %q: %s", g.status, g.reason(), row.status, row.reason, g.body)
			}
			if rec := r.recordOf(g.header.Get("X-Request-Id")); rec.Subject != "spiffe://td.test/bot" || rec.Reason != g.reason() {
				t.Errorf("audit line %+v", rec)
			}
			if after := r.metric("icp_proxy_decisions_total", `outcome="refused"`); after != before+1 {
				t.Errorf("refusals counted: %v → %v", before, after)
			}
		})
		t.Run(row.id+"/twin", func(t *testing.T) {
			r := r.as(t)
			if g := r.raw(cert, row.twin); g.status != 200 {
				t.Fatalf("%d: %s", g.status, g.body)
			}
		})
	}
}

// A refused head after good ones is answered in its turn, and nothing after it
// is read.
func TestPipelining(t *testing.T) {
	r := start(t)
	config := tlsClient(r.ca.issue(t, "/bot"))
	conn, err := tls.Dial("tcp", r.addr, config)
	must(t, err)
	defer conn.Close()
	must(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	smuggled := post("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n") + get("/echo/smuggled")
	_, err = io.WriteString(conn, get("/echo/1")+chunked+postEcho+smuggled)
	must(t, err)
	in := bufio.NewReader(conn)
	for i, want := range []int{200, 200, 200, 400} {
		if g := readAnswer(t, in); g.status != want {
			t.Fatalf("answer %d is %d, want %d: %s", i, g.status, want, g.body)
		}
	}
	if rest, err := io.ReadAll(in); err != nil || len(rest) > 0 {
		t.Errorf("after the refusal came %q, %v", rest, err)
	}
	for _, rec := range r.records() {
		if rec.Path == "/echo/smuggled" {
			t.Error("the smuggled request was served")
		}
	}
}

// The same heads in pieces of one byte are judged the same.
func TestFramingByteByByte(t *testing.T) {
	r := start(t)
	cert := r.ca.issue(t, "/bot")
	for _, row := range []struct {
		text   string
		status int
	}{{getEcho, 200}, {chunked, 200}, {postEcho, 200}, {with("X-A: a\r\n b\r\n"), 400}} {
		conn, err := tls.Dial("tcp", r.addr, tlsClient(cert))
		must(t, err)
		must(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
		for i := range len(row.text) {
			if _, err := conn.Write([]byte{row.text[i]}); err != nil {
				break // the answer may come before the end
			}
		}
		if g := readAnswer(t, bufio.NewReader(conn)); g.status != row.status {
			t.Errorf("%q: %d, want %d", row.text, g.status, row.status)
		}
		conn.Close()
	}
}

// What is refused in HTTP/1 is refused in HTTP/2 as well, where it can be said.
func TestHTTP2Targets(t *testing.T) {
	r := start(t)
	client := r.client(true, r.ca.issue(t, "/bot"))
	for _, row := range []struct{ id, target string }{
		{"P-37", "//echo/x"}, {"P-38", "/echo/a%2fb"}, {"P-39", "/echo/%2e%2e/x"}, {"P-40", "/echo/x;v=1"}, {"P-46", "/echo/x?a;b"},
	} {
		t.Run(row.id+"/h2/refused", func(t *testing.T) {
			req, err := http.NewRequest("GET", "https://"+r.addr, nil)
			must(t, err)
			req.URL.Opaque = row.target
			if strings.HasPrefix(row.target, "//") {
				req.URL.Opaque, req.URL.Path = "", row.target
			}
			resp, err := client.Transport.RoundTrip(req)
			must(t, err)
			defer resp.Body.Close()
			if resp.StatusCode != 400 || resp.ProtoMajor != 2 {
				t.Errorf("status %d over HTTP/%d", resp.StatusCode, resp.ProtoMajor)
			}
		})
	}
	t.Run("h2/twin", func(t *testing.T) {
		r := r.as(t)
		if g := r.mustDo(client, "GET", "/echo/x", "", nil); g.status != 200 {
			t.Errorf("%d %s", g.status, g.body)
		}
	})
}

func TestServerName(t *testing.T) {
	r := start(t)
	for _, row := range []struct {
		id, host string
		status   int
	}{{"P-9/refused", "other.test", 421}, {"P-9/twin", "proxy.test", 200}, {"V-51/port-and-case", "Proxy.Test.:443", 200}} {
		t.Run(row.id, func(t *testing.T) {
			r := r.as(t)
			config := tlsClient(r.ca.issue(t, "/bot"))
			config.ServerName = "proxy.test"
			conn, err := tls.Dial("tcp", r.addr, config)
			must(t, err)
			defer conn.Close()
			_, err = fmt.Fprintf(conn, "GET /echo/x HTTP/1.1\r\nHost: %s\r\n\r\n", row.host)
			must(t, err)
			if g := readAnswer(t, bufio.NewReader(conn)); g.status != row.status {
				t.Errorf("%d, want %d: %s", g.status, row.status, g.body)
			}
		})
	}
}

func TestExpectContinue(t *testing.T) {
	r := start(t)
	cert := r.ca.issue(t, "/bot")
	expecting := func(path string) string {
		return "POST " + path + " HTTP/1.1\r\nHost: proxy\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
	}
	t.Run("P-62/refused", func(t *testing.T) {
		r := r.as(t)
		if g := r.raw(cert, expecting("/admin")); g.status != 403 {
			t.Errorf("first answer is %d, want the final 403", g.status)
		}
	})
	t.Run("P-62/twin", func(t *testing.T) {
		r := r.as(t)
		if g := r.raw(cert, expecting("/echo/x")+"abcd"); g.status != 100 && g.status != 200 {
			t.Errorf("%d", g.status)
		}
	})
}
