package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/telemetry"
	"github.com/authsec-ai/icp/policy"
	"github.com/authsec-ai/icp/proxy/credential"
	"github.com/authsec-ai/icp/proxy/upstream"
)

func TestRateLimit(t *testing.T) {
	r := start(t)
	limited := samplePolicies()
	limited[3].Limits = &policy.Limits{RequestsPerMinute: 3}
	r.setPolicies(limited...)
	bot := r.ca.issue(t, "/bot")
	for i := range 3 {
		t.Run("P-67/twin", func(t *testing.T) {
			if g := r.as(t).mustDo(r.client(i%2 == 0, bot), "GET", "/echo/x", "", nil); g.status != 200 {
				t.Error(g.status, g.body)
			}
		})
	}
	t.Run("P-67/refused", func(t *testing.T) {
		r := r.as(t)
		forged := http.Header{"X-Forwarded-For": {"10.9.8.7"}, "X-Spiffe-Id": {"spiffe://td.test/other"}}
		g := r.mustDo(r.client(false, r.ca.issue(t, "/bot")), "GET", "/echo/x", "", forged)
		if g.status != 429 || g.reason() != "rate-limited" || g.header.Get("Retry-After") != "20" {
			t.Error(g.status, g.header, g.body)
		}
	})
	t.Run("P-67/other-caller/twin", func(t *testing.T) {
		if g := r.as(t).mustDo(r.client(false, r.ca.issue(t, "/other")), "GET", "/echo/x", "", nil); g.status != 200 {
			t.Error(g.status, g.body)
		}
	})
}

// A policy may ask for SVIDs that were issued for a short time.
func TestSVIDLifetime(t *testing.T) {
	r := start(t)
	strict := samplePolicies()
	strict[3].Limits = &policy.Limits{MaxSVIDLifetime: identity.Duration(10 * time.Minute)}
	r.setPolicies(strict...)
	for minutes, want := range map[int]int{11: 403, 9: 200} {
		t.Run("PX-2/"+map[int]string{403: "refused", 200: "twin"}[want], func(t *testing.T) {
			cert := r.ca.issue(t, "/bot", func(c *x509.Certificate) { c.NotAfter = c.NotBefore.Add(time.Duration(minutes) * time.Minute) })
			if g := r.as(t).mustDo(r.client(false, cert), "GET", "/echo/x", "", nil); g.status != want {
				t.Error(g.status, g.body)
			}
		})
	}
}

// An upstream with a pinned ID is told apart from any other of the same trust
// domain, and asked for its SVID over mutual TLS.
func TestUpstreamIdentity(t *testing.T) {
	ca := newAuthority(t, "td.test")
	var sawProxy atomic.Value
	backend := func(cert tls.Certificate) *httptest.Server {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			sawProxy.Store(req.TLS.PeerCertificates[0].URIs[0].String())
			_, _ = io.WriteString(w, "pinned")
		}))
		s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAnyClientCert}
		s.StartTLS()
		t.Cleanup(s.Close)
		return s
	}
	right := backend(ca.issue(t, "/billing"))
	wrong := backend(ca.issue(t, "/intruder"))
	foreign := backend(newAuthority(t, "td.test").issue(t, "/billing"))
	r := start(t, func(r *rig) {
		r.ca = ca
		for _, route := range []struct{ prefix, url string }{{"/echo/right", right.URL}, {"/echo/wrong", wrong.URL}, {"/echo/foreign", foreign.URL}} {
			r.config.Routes = append(r.config.Routes, upstream.Route{Service: "echo", PathPrefix: route.prefix, Upstream: route.url, UpstreamSPIFFEID: "spiffe://td.test/billing"})
		}
	})
	client := r.client(false, ca.issue(t, "/bot"))
	for _, path := range []string{"/echo/wrong", "/echo/foreign"} {
		t.Run("PX-11/refused", func(t *testing.T) {
			if g := r.as(t).mustDo(client, "GET", path, "", nil); g.status != 502 || g.reason() != "upstream-identity" {
				t.Error(path, g.status, g.body)
			}
		})
	}
	t.Run("PX-11/twin", func(t *testing.T) {
		if g := r.as(t).mustDo(client, "GET", "/echo/right", "", nil); g.status != 200 || sawProxy.Load() != "spiffe://td.test/proxy" {
			t.Error(g.status, g.body, sawProxy.Load())
		}
	})
}

func TestUpstreamDown(t *testing.T) {
	dead := httptest.NewServer(http.NotFoundHandler())
	dead.Close()
	release := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer slow.Close()
	defer close(release)
	r := start(t, withConfig(func(c *Config) {
		c.Routes = append(c.Routes,
			upstream.Route{Service: "echo", PathPrefix: "/echo/dead", Upstream: dead.URL},
			upstream.Route{Service: "echo", PathPrefix: "/echo/slow", Upstream: slow.URL, HeaderTimeout: 100 * time.Millisecond})
	}))
	client := r.client(true, r.ca.issue(t, "/bot"))
	for path, want := range map[string]int{"/echo/dead": 502, "/echo/slow": 504, "/echo/live": 200} {
		if g := r.mustDo(client, "GET", path, "", nil); g.status != want {
			t.Errorf("%s: %d %s", path, g.status, g.body)
		}
	}
}

// What a caller writes stands in the audit line as a value, not as a line.
func TestLogInjection(t *testing.T) {
	r := start(t)
	cert := r.ca.issue(t, "/sales-bot")
	evil := `evil","outcome":"allowed"}` + "\\n" + `{"outcome":"allowed`
	t.Run("P-70/refused", func(t *testing.T) {
		r := r.as(t)
		body := `{"model":"x\"y\\z ` + "\u2028" + `"}`
		g := r.mustDo(r.client(false, cert), "POST", "/v1/chat/completions", body, nil)
		if rec := r.recordOf(g.header.Get("X-Request-Id")); rec.Model != "x\"y\\z \u2028" || rec.Outcome != "denied" {
			t.Errorf("%+v", rec)
		}
		g = r.raw(cert, "GET /echo/"+url.PathEscape(evil)+" HTTP/1.1\r\nHost: p\r\n\r\n")
		if rec := r.recordOf(g.header.Get("X-Request-Id")); rec.Outcome != "refused" {
			t.Errorf("%+v", rec)
		}
		if n := len(r.records()); n != 2 {
			t.Errorf("%d audit lines for two requests", n)
		}
	})
	t.Run("P-70/twin", func(t *testing.T) {
		r := r.as(t)
		g := r.mustDo(r.client(false, cert), "POST", "/v1/chat/completions", chatSales, nil)
		if rec := r.recordOf(g.header.Get("X-Request-Id")); rec.Model != "customer-service-llm" || rec.Outcome != "allowed" {
			t.Errorf("%+v", rec)
		}
	})
}

// stuck is an audit sink that takes nothing until it is told to.
type stuck struct{ release chan struct{} }

func (s stuck) Write(p []byte) (int, error) { <-s.release; return len(p), nil }

// With a full audit sink, routes that require their line deny; others go on
// and count what is lost.
func TestAuditFull(t *testing.T) {
	r := prepare(t, withConfig(func(c *Config) {
		c.AuditFile = ""
		c.Routes[2].Audit = upstream.AuditRequired
	}))
	sinkhole := stuck{make(chan struct{})}
	r.stdout = sinkhole
	r.auditQueue = 2
	r.run()
	r.wl.set(t, []tls.Certificate{r.ca.issue(t, "/proxy")}, r.ca)
	r.eventually("readiness", r.ready)
	client := r.client(false, r.ca.issue(t, "/bot"))
	r.eventually("lines to be lost", func() bool {
		if g := r.mustDo(client, "GET", "/echo/x", "", nil); g.status != 200 {
			t.Fatal(g.status, g.body)
		}
		return r.metric("icp_proxy_audit_dropped_total") > 0
	})
	t.Run("P-69/refused", func(t *testing.T) {
		if g := r.as(t).mustDo(client, "GET", "/stream/x", "", nil); g.status != 503 || g.reason() != "audit-unavailable" {
			t.Error(g.status, g.body)
		}
	})
	close(sinkhole.release)
	t.Run("P-69/twin", func(t *testing.T) {
		r := r.as(t)
		r.eventually("room for a line", func() bool { return len(r.proxy.trail.room) == 0 })
		if g := r.mustDo(client, "GET", "/stream/x", "", nil); g.status == 503 {
			t.Error(g.status, g.body)
		}
	})
}

// A policy file that turns bad leaves the policies as they were; without any,
// everything is denied.
func TestPolicyFile(t *testing.T) {
	r := prepare(t)
	good, err := os.ReadFile(r.config.Policies.File)
	must(t, err)
	must(t, os.WriteFile(r.config.Policies.File, []byte(`{"revision":1,"policies":[{"name":"x"}]}`), 0o600))
	r.run()
	r.wl.set(t, []tls.Certificate{r.ca.issue(t, "/proxy")}, r.ca)
	r.eventually("the SVID", func() bool { return r.proxy.self.ready(context.Background()) == nil })
	client := r.client(false, r.ca.issue(t, "/bot"))
	ask := func(t *testing.T, want int) {
		t.Helper()
		if g := r.as(t).mustDo(client, "GET", "/echo/x", "", nil); g.status != want {
			t.Error(g.status, g.body)
		}
	}
	t.Run("P-64/cold/refused", func(t *testing.T) {
		ask(t, 403)
		if r.as(t).ready() {
			t.Error("ready without policies")
		}
	})
	must(t, os.WriteFile(r.config.Policies.File, good, 0o600))
	t.Run("P-64/twin", func(t *testing.T) {
		r.as(t).eventually("the policies", func() bool { return r.proxy.policies.State().Loaded })
		ask(t, 200)
	})
	failures := r.proxy.policies.State().Failures
	must(t, os.WriteFile(r.config.Policies.File, []byte("not policies"), 0o600))
	t.Run("P-64/kept/twin", func(t *testing.T) {
		r.as(t).eventually("the bad file to be read", func() bool { return r.proxy.policies.State().Failures > failures })
		ask(t, 200)
	})
	t.Run("P-65/refused", func(t *testing.T) {
		sink{r.proxy}.ExpirePolicies()
		ask(t, 403)
	})
	t.Run("P-66/refused", func(t *testing.T) {
		must(t, sink{r.proxy}.ApplyPolicies(policy.Set{Revision: 7, Policies: []policy.Policy{}}))
		if err := (sink{r.proxy}).ApplyPolicies(policy.Set{Revision: 6, Policies: samplePolicies()}); err == nil {
			t.Error("an older set was taken")
		}
		ask(t, 403)
	})
}

func websocketUpstream() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Upgrade") != "websocket" && req.URL.RawQuery != "unasked" {
			_, _ = io.WriteString(w, "no upgrade asked")
			return
		}
		conn, in, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_, _ = io.Copy(conn, in)
	})
}

const upgradeFields = "Connection: Upgrade\r\nUpgrade: websocket\r\n"

func TestWebSocket(t *testing.T) {
	var reached atomic.Int64
	echo := websocketUpstream()
	r := start(t, withUpstream(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		reached.Add(1)
		echo.ServeHTTP(w, req)
	})))
	cert := r.ca.issue(t, "/bot")
	t.Run("P-33/no-authorization/refused", func(t *testing.T) {
		g := r.as(t).raw(cert, "GET /v1/realtime HTTP/1.1\r\nHost: p\r\n"+upgradeFields+"\r\n")
		if g.status != 403 || reached.Load() != 0 {
			t.Error(g.status, g.body, reached.Load())
		}
	})
	t.Run("P-33/unasked/refused", func(t *testing.T) {
		if g := r.as(t).raw(cert, get("/echo/x?unasked")); g.status != 502 {
			t.Error(g.status, g.body)
		}
	})
	t.Run("P-33/twin", func(t *testing.T) {
		r := r.as(t)
		conn, in := r.openWebSocket(cert)
		defer conn.Close()
		for _, text := range []string{"one", "\n\r\x00 not HTTP \r\n\r\n"} {
			_, err := io.WriteString(conn, text)
			must(t, err)
			back := make([]byte, len(text))
			if _, err := io.ReadFull(in, back); err != nil || string(back) != text {
				t.Fatalf("%q %v", back, err)
			}
		}
		must(t, sink{r.proxy}.ApplyRevocations([]identity.Revocation{x509Revocation(cert)}))
		if _, err := in.ReadByte(); err == nil {
			t.Error("V-48: the WebSocket of a revoked caller still runs")
		}
		r.eventually("the audit line", func() bool {
			for _, rec := range r.records() {
				if rec.Status == 101 && rec.End == "cut" {
					return true
				}
			}
			return false
		})
	})
}

func (r *rig) openWebSocket(cert tls.Certificate) (*tls.Conn, *bufio.Reader) {
	r.tb.Helper()
	conn, in, _ := r.upgrade(cert)
	return conn, in
}

func (r *rig) upgrade(cert tls.Certificate) (*tls.Conn, *bufio.Reader, http.Header) {
	r.tb.Helper()
	conn, err := tls.Dial("tcp", r.addr, tlsClient(cert))
	must(r.tb, err)
	must(r.tb, conn.SetDeadline(time.Now().Add(20*time.Second)))
	_, err = io.WriteString(conn, "GET /echo/x HTTP/1.1\r\nHost: p\r\n"+upgradeFields+"\r\n")
	must(r.tb, err)
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	must(r.tb, err)
	if resp.StatusCode != 101 {
		r.tb.Fatal(resp.Status)
	}
	return conn, in, resp.Header
}

// A configuration that can't work is refused with one clear line.
func TestConfig(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key")
	must(t, os.WriteFile(key, []byte("k"), 0o600))
	for _, row := range []struct {
		id   string
		edit func(*Config)
		want string
	}{
		{"P-72", func(c *Config) { c.MetricsListen = "0.0.0.0:0" }, "loopback"},
		{"P-72-name", func(c *Config) { c.MetricsListen = "example.org:9464" }, "loopback"},
		{"no-routes", func(c *Config) { c.Routes = nil }, "no routes"},
		{"same-prefix", func(c *Config) { c.Routes = append(c.Routes, c.Routes[0]) }, "taken"},
		{"prefix", func(c *Config) { c.Routes[0].PathPrefix = "/v1/" }, "path_prefix"},
		{"upstream", func(c *Config) { c.Routes[0].Upstream = "ftp://x" }, "http or https"},
		{"upstream-path", func(c *Config) { c.Routes[0].Upstream = "http://x/y" }, "no path"},
		{"clear-text-credential", func(c *Config) {
			c.Routes[0].Upstream, c.Routes[0].Credential = "http://example.org", &credential.Config{Header: "Authorization", File: key}
		}, "clear text"},
		{"pin-without-tls", func(c *Config) { c.Routes[0].UpstreamSPIFFEID = "spiffe://td.test/x" }, "https"},
		{"two-policy-sources", func(c *Config) { c.Policies.Server = "https://127.0.0.1:1" }, "not both"},
		{"no-policy-source", func(c *Config) { c.Policies.File = "" }, "not both"},
		{"spiffe-id", func(c *Config) { c.SPIFFEID = "spiffe://TD.test/x" }, "spiffe_id"},
		{"audit-file", func(c *Config) { c.AuditFile = "/nowhere/at/all" }, "audit file"},
		{"listen", func(c *Config) { c.Listen = "8444" }, "listen"},
	} {
		t.Run(row.id+"/refused", func(t *testing.T) {
			if err := newWith(t, row.edit); err == nil || !strings.Contains(err.Error(), row.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %v, want one line about %q", err, row.want)
			}
		})
	}
	t.Run("P-72/twin", func(t *testing.T) { must(t, newWith(t, func(*Config) {})) })
}

func newWith(t *testing.T, edit func(*Config)) error {
	t.Helper()
	config := Defaults()
	config.Policies.File = "policies.yaml"
	config.Routes = []upstream.Route{{Service: "echo", PathPrefix: "/echo", Upstream: "http://127.0.0.1:1"}}
	edit(&config)
	tel, err := telemetry.New("proxy", io.Discard, slog.LevelInfo)
	must(t, err)
	defer tel.Close(context.Background())
	_, err = New(config, Deps{Telemetry: tel, Now: time.Now, Stdout: io.Discard})
	return err
}

func TestBusyPort(t *testing.T) {
	r := start(t)
	other := *r
	other.config.Listen = r.addr
	tel, err := telemetry.New("proxy", io.Discard, slog.LevelInfo)
	must(t, err)
	defer tel.Close(context.Background())
	p, err := New(other.config, Deps{Telemetry: tel, Now: time.Now, Stdout: io.Discard})
	must(t, err)
	if _, err := p.Listen(); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("error %v", err)
	}
	must(t, p.trail.closer.Close())
}
