package proxy

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"strings"
	"testing"
)

func TestIdentityHeaders(t *testing.T) {
	r := start(t)
	cert := r.ca.issue(t, "/bot")
	digest := sha256.Sum256(cert.Leaf.Raw)
	wantXFCC := "By=spiffe://td.test/proxy;Hash=" + hex.EncodeToString(digest[:]) + ";URI=spiffe://td.test/bot"
	for _, row := range []struct{ id, fields string }{
		{"P-11", "X-Forwarded-Client-Cert: URI=spiffe://td.test/admin\r\n"},
		{"P-12-xfcc", "X_Forwarded_Client_Cert: URI=spiffe://td.test/admin\r\n"},
		{"P-12-spiffe", "x_spiffe_id: spiffe://td.test/admin\r\n"},
		{"P-12-mixed", "X_Spiffe-ID: spiffe://td.test/admin\r\nx.spiffe.id: spiffe://td.test/admin\r\n"},
		{"P-12-other-marks", "X~Spiffe|Id: spiffe://td.test/admin\r\nX'Forwarded+Client!Cert: URI=spiffe://td.test/admin\r\n"},
		{"P-13", "Connection: X-Spiffe-Id, X-Forwarded-Client-Cert, X-Named\r\nX-Named: gone\r\nX-Spiffe-Id: spiffe://td.test/admin\r\n"},
		{"V-49", "X-Spiffe-Id: spiffe://td.test/admin\r\nX-SPIFFE-ID: spiffe://td.test/root\r\n"},
		{"P-15", "X-HTTP-Method-Override: DELETE\r\nX-Method-Override: DELETE\r\nX_HTTP_Method: DELETE\r\n"},
		{"P-16", "X-Original-URL: /admin\r\nX-Rewrite-URL: /admin\r\nX-Forwarded-Uri: /admin\r\nX-Forwarded-Prefix: /admin\r\nX-Forwarded-Host: admin\r\nForwarded: for=admin\r\n"},
		{"P-17", "x-ai-eg-model: admin\r\nX-Model: admin\r\n"},
		{"P-31", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: admin\r\n"},
		{"PX-12", "X-Request-Id: admin\r\nX-Real-Ip: admin\r\nProxy-Connection: admin\r\nX-Envoy-Original-Path: /admin\r\n"},
	} {
		t.Run(row.id+"/refused", func(t *testing.T) {
			r := r.as(t)
			echo := echoOf(t, r.raw(cert, with(row.fields+"X-Kept: yes\r\n")))
			for name, values := range echo.Header {
				text := strings.Join(values, "|")
				if strings.Contains(text, "admin") || strings.Contains(text, "DELETE") || strings.Contains(text, "root") || name == "X-Named" || name == "Upgrade" {
					t.Errorf("the upstream got %s: %s", name, text)
				}
			}
			checkHeader(t, echo.Header, headerXFCC, wantXFCC)
			checkHeader(t, echo.Header, headerSPIFFEID, "spiffe://td.test/bot")
		})
		t.Run(row.id+"/twin", func(t *testing.T) {
			r := r.as(t)
			echo := echoOf(t, r.raw(cert, with("X-Kept: yes\r\nX-Modelling: yes\r\nCookie: a=b\r\n")))
			checkHeader(t, echo.Header, "X-Kept", "yes")
			checkHeader(t, echo.Header, "X-Modelling", "yes")
			checkHeader(t, echo.Header, "Cookie", "a=b")
			if len(echo.Header) != 6 { // the three, who calls twice, and the request id
				t.Errorf("the upstream got %v", echo.Header)
			}
		})
	}
}

func checkHeader(t *testing.T, header http.Header, name, want string) {
	t.Helper()
	if got := header[name]; len(got) != 1 || got[0] != want {
		t.Errorf("%s: %q, want %q", name, got, want)
	}
}

// The caller's credentials go no further than the proxy, and the upstream gets
// the proxy's.
// TestNoCredential is PX-7 where no route adds a credential: the caller's own is
// not passed on in its place.
func TestNoCredential(t *testing.T) {
	var seen http.Header
	r := start(t, withUpstream(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) { seen = req.Header.Clone() })),
		withConfig(func(c *Config) {
			for i := range c.Routes {
				c.Routes[i].Credential = nil
			}
		}))
	client := r.client(false, r.ca.issue(t, "/bot"))
	own := http.Header{"Authorization": {"Bearer mine"}, "Proxy-Authorization": {"mine"}, "X-Api-Key": {"mine"}, "Api-Key": {"mine"}, "X-Harmless": {"kept"}}
	if g := r.mustDo(client, "GET", "/echo/x", "", own); g.status != 200 {
		t.Fatal(g.status, g.body)
	}
	for name, values := range seen {
		if strings.Contains(strings.Join(values, "|"), "mine") {
			t.Errorf("PX-7: the upstream got %s: %s", name, values)
		}
	}
	checkHeader(t, seen, "X-Harmless", "kept")
}

func TestCredentials(t *testing.T) {
	var seen http.Header
	r := start(t, withUpstream(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		seen = req.Header.Clone()
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte("{}"))
	})))
	own := http.Header{"Authorization": {"Bearer mine", "Basic mine"}, "X-Api-Key": {"mine"}, "Api-Key": {"mine"}, "X_api_key": {"mine"}, "Proxy-Authorization": {"mine"}}
	client := r.client(false, r.ca.issue(t, "/sales-bot"))
	t.Run("P-14/refused", func(t *testing.T) {
		r := r.as(t)
		g := r.mustDo(client, "POST", "/v1/chat/completions", chatSales, own)
		if g.status != 200 {
			t.Fatal(g.status, g.body)
		}
		checkHeader(t, seen, "Authorization", "Bearer "+secret)
		for name, values := range seen {
			if strings.Contains(strings.Join(values, "|"), "mine") {
				t.Errorf("the upstream got %s: %s", name, values)
			}
		}
		r.recordOf(g.header.Get("X-Request-Id"))
		if strings.Contains(r.log.String(), "mine") || strings.Contains(r.log.String(), secret) {
			t.Error("a credential stands in the log")
		}
	})
	t.Run("PX-7/twin", func(t *testing.T) {
		r := r.as(t)
		if g := r.mustDo(client, "POST", "/v1/chat/completions", chatSales, nil); g.status != 200 {
			t.Fatal(g.status, g.body)
		}
		checkHeader(t, seen, "Authorization", "Bearer "+secret)
	})
	t.Run("no-credential-elsewhere", func(t *testing.T) {
		r := r.as(t)
		if g := r.mustDo(client, "GET", "/echo/x", "", own); g.status != 200 {
			t.Fatal(g.status, g.body)
		}
		for name, values := range seen {
			if text := strings.Join(values, "|"); strings.Contains(text, "mine") || strings.Contains(text, secret) {
				t.Errorf("the upstream got %s: %s", name, values)
			}
		}
	})
}

// An upstream that gives the credential back does not get it past the proxy.
func TestCredentialEcho(t *testing.T) {
	r := start(t, withUpstream(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		credential := req.Header.Get("Authorization")
		switch req.URL.Query().Get("case") {
		case "location":
			http.Redirect(w, req, "/v1/elsewhere?key="+strings.TrimPrefix(credential, "Bearer "), http.StatusFound)
		case "error":
			http.Error(w, "bad key "+credential, http.StatusUnauthorized)
		case "body":
			_, _ = w.Write([]byte("before " + credential + " after"))
		case "pieces":
			for _, piece := range strings.SplitAfter("before "+credential+" after", "-") {
				_, _ = w.Write([]byte(piece))
				w.(http.Flusher).Flush()
			}
		case "harmless":
			http.Error(w, "bad key sk-sample-0123", http.StatusUnauthorized)
		}
	})))
	client := r.client(false, r.ca.issue(t, "/sales-bot"))
	for _, row := range []struct {
		id     string
		status int
		broken bool
	}{
		{"location", 302, false}, {"error", 502, false}, {"body", 502, false}, {"pieces", 200, true},
	} {
		t.Run("P-22/refused/"+row.id, func(t *testing.T) {
			r := r.as(t)
			g, err := r.do(client, "POST", "/v1/chat/completions?case="+row.id, chatSales, nil)
			if g.status != row.status || (err != nil) != row.broken {
				t.Errorf("%d %v %q", g.status, err, g.body)
			}
			if strings.Contains(g.body, secret) || strings.Contains(strings.Join(g.header["Location"], ""), secret) {
				t.Errorf("the caller got the credential: %v %s", g.header, g.body)
			}
			if row.broken && (g.body != "before Bearer " || r.recordOf(g.header.Get("X-Request-Id")).End != endEcho) {
				t.Errorf("the answer began %q", g.body)
			}
		})
	}
	t.Run("P-22/twin", func(t *testing.T) {
		r := r.as(t)
		g := r.mustDo(client, "POST", "/v1/chat/completions?case=harmless", chatSales, nil)
		if g.status != 401 || g.body != "bad key sk-sample-0123\n" {
			t.Errorf("%d %q", g.status, g.body)
		}
	})
}

// Nor does it when it switches protocols.
func TestCredentialEchoAfterUpgrade(t *testing.T) {
	r := start(t, withConfig(func(c *Config) { c.Routes[1].Credential = c.Routes[0].Credential }),
		withUpstream(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			credential := req.Header.Get("Authorization")
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
				"X-Key: "+credential+"\r\nX-Kept: yes\r\n\r\nbefore "+credential+" after")
		})))
	conn, in, header := r.upgrade(r.ca.issue(t, "/bot"))
	defer conn.Close()
	t.Run("P-22/refused/upgrade-body", func(t *testing.T) {
		r := r.as(t)
		rest, _ := io.ReadAll(in) // it breaks off
		if string(rest) != "before Bearer " {
			t.Errorf("the caller got %q", rest)
		}
		r.eventually("its audit line", func() bool {
			list := r.records()
			return len(list) == 1 && list[0].End == endEcho
		})
	})
	t.Run("P-22/refused/upgrade-header", func(t *testing.T) {
		if text := header.Get("X-Key"); text != "" {
			t.Errorf("the caller got %q", text)
		}
	})
	t.Run("P-22/twin/upgrade-header", func(t *testing.T) { checkHeader(t, header, "X-Kept", "yes") })
}

// The names that fold knows are folded as all others are.
func TestCommonNames(t *testing.T) {
	for name, folded := range common {
		if http.CanonicalHeaderKey(name) != name || strings.ToLower(name) != folded || strings.Trim(folded, "abcdefghijklmnopqrstuvwxyz-") != "" {
			t.Errorf("%q: %q", name, folded)
		}
	}
}
