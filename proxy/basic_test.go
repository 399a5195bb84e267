package proxy

import (
	"crypto/tls"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

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
	_ = tls.Certificate{}
}
