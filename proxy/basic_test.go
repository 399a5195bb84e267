package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/authsec-ai/icp/internal/sampleupstream"
)

func chat(model string) string {
	return `{"model":"` + model + `","messages":[{"role":"user","content":"hello"}]}`
}

// Every bot reaches its own model and no other.
func TestModelAuthorization(t *testing.T) {
	r := start(t)
	for _, protocol := range []bool{false, true} {
		name := map[bool]string{false: "h1", true: "h2"}[protocol]
		for bot, own := range map[string]string{"sales-bot": "customer-service-llm", "finance-bot": "financial-analysis-llm"} {
			client := r.client(protocol, r.ca.issue(t, "/"+bot))
			for _, model := range []string{"customer-service-llm", "financial-analysis-llm"} {
				t.Run("PX-4/"+name+"/"+bot+"/"+model, func(t *testing.T) {
					r := r.as(t)
					g := r.mustDo(client, "POST", "/v1/chat/completions", chat(model), nil)
					want := http.StatusForbidden
					if model == own {
						want = http.StatusOK
					}
					if g.status != want || g.proto != map[bool]int{false: 1, true: 2}[protocol] {
						t.Fatalf("status %d (HTTP/%d), want %d: %s", g.status, g.proto, want, g.body)
					}
					if want == http.StatusOK && !strings.Contains(g.body, own) {
						t.Errorf("answer is not from %s: %s", own, g.body)
					}
				})
			}
		}
	}
}

func TestDefaultDeny(t *testing.T) {
	r := start(t)
	client := r.client(true, r.ca.issue(t, "/nobody"))
	for _, row := range []struct {
		name, method, target, body string
		status                     int
		reason                     string
	}{
		{"PX-3/refused", "POST", "/v1/chat/completions", chatSales, 403, "policy"},
		{"PX-3/twin", "GET", "/echo/x", "", 200, ""},
		{"no-route/refused", "GET", "/elsewhere", "", 403, "no-route"},
		{"PX-10/method", "GET", "/v1/chat/completions", "", 403, "unknown-llm-endpoint"},
		{"PX-10/prefix-is-whole-segments", "GET", "/echoes", "", 403, "no-route"},
		{"PX-10/case", "GET", "/ECHO/x", "", 403, "no-route"},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := r.as(t)
			g := r.mustDo(client, row.method, row.target, row.body, nil)
			if g.status != row.status || g.reason() != row.reason {
				t.Fatalf("%d %q, want %d %q: %s", g.status, g.reason(), row.status, row.reason, g.body)
			}
		})
	}
}

func echoOf(t *testing.T, g got) sampleupstream.Echo {
	t.Helper()
	var echo sampleupstream.Echo
	if err := json.Unmarshal([]byte(g.body), &echo); err != nil {
		t.Fatalf("%v: %d %s", err, g.status, g.body)
	}
	return echo
}

func TestFirstRequest(t *testing.T) {
	r := start(t)
	cert := r.ca.issue(t, "/sales-bot")
	g := r.mustDo(r.client(false, cert), "POST", "/echo/a?b=c", "hello", nil)
	echo := echoOf(t, g)
	if echo.Method != "POST" || echo.Target != "/echo/a?b=c" || echo.Body != "hello" {
		t.Errorf("the upstream saw %+v", echo)
	}
	if got := echo.Header["X-Spiffe-Id"]; len(got) != 1 || got[0] != "spiffe://td.test/sales-bot" {
		t.Errorf("X-Spiffe-Id %q", got)
	}
	rec := r.recordOf(g.header.Get("X-Request-Id"))
	if rec.Serial != serialOf(cert) || rec.Outcome != "allowed" || rec.Policy != "echo" || rec.Status != 200 || rec.End != "complete" {
		t.Errorf("audit line %+v", rec)
	}
}

// PX-1 in one place: who does not prove an identity gets no answer at all.
func TestMutualTLS(t *testing.T) {
	r := start(t)
	other := newAuthority(t, "td.test") // the same name, another key
	at := func(from, to time.Duration) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = time.Now().Add(from), time.Now().Add(to) }
	}
	for name, row := range map[string]struct {
		config *tls.Config
		reason string
	}{
		"no-certificate": {tlsClient(), "no-client-certificate"},
		"wrong-CA":       {tlsClient(other.issue(t, "/bot")), "signature"},
		"expired":        {tlsClient(r.ca.issue(t, "/bot", at(-time.Hour, -time.Minute))), "expired"},
		"not-yet-valid":  {tlsClient(r.ca.issue(t, "/bot", at(time.Hour, 2*time.Hour))), "not-yet-valid"},
		"CA-as-leaf":     {tlsClient(r.ca.issue(t, "/bot", func(c *x509.Certificate) { c.IsCA = true })), "leaf-is-ca"},
		"two-URIs": {tlsClient(r.ca.issue(t, "/bot", func(c *x509.Certificate) {
			c.URIs = append(c.URIs, &url.URL{Scheme: "spiffe", Host: "td.test", Path: "/admin"})
		})), "many-uris"},
	} {
		t.Run("PX-1/"+name+"/refused", func(t *testing.T) {
			r := r.as(t)
			if g, err := r.request(row.config); err == nil {
				t.Errorf("answered %d", g.status)
			}
			r.eventually("a refusal for "+row.reason, func() bool { return r.refusals()[row.reason] == 1 })
		})
	}
	t.Run("PX-1/twin", func(t *testing.T) {
		r := r.as(t)
		if g, err := r.request(tlsClient(r.ca.issue(t, "/bot"))); err != nil || g.status != 200 {
			t.Errorf("%d %v", g.status, err)
		}
	})
}

// The sample upstream streams through the proxy in the shape of the API.
func TestSampleStream(t *testing.T) {
	r := start(t)
	for name, fields := range map[string]string{"chunks": `"sample":{"chunks":3,"delay_ms":1}`, "words": `"messages":[{"role":"user","content":"hi"}]`} {
		t.Run("PX-6/"+name, func(t *testing.T) {
			g := r.as(t).mustDo(r.client(true, r.ca.issue(t, "/sales-bot")), "POST", "/v1/chat/completions",
				`{"model":"customer-service-llm","stream":true,`+fields+`}`, nil)
			events := strings.Split(strings.TrimSuffix(g.body, "\n\n"), "\n\n")
			want := map[string]int{"chunks": 4, "words": 7}[name] // and [DONE]
			if g.status != 200 || g.header.Get("Content-Type") != "text/event-stream" || len(events) != want || events[len(events)-1] != "data: [DONE]" {
				t.Errorf("%d, %d events: %q", g.status, len(events), g.body)
			}
		})
	}
}
