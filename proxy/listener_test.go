package proxy

import (
	"crypto/tls"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/protobuf/proto"

	"github.com/authsec-ai/icp/internal/corpus"
	"github.com/authsec-ai/icp/policy"
)

// showing is a client that sends a chain just as it is.
func showing(chain [][]byte, key any) *tls.Config {
	cert := tls.Certificate{Certificate: chain, PrivateKey: key}
	return &tls.Config{
		InsecureSkipVerify:   true,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil },
	}
}

// request makes one request over a connection of its own; an error means that
// the connection was refused.
func (r *rig) request(config *tls.Config) (got, error) {
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	return r.do(&http.Client{Transport: transport, Timeout: 20 * time.Second}, "GET", "/echo/x", "", nil)
}

// trust makes the proxy trust bundles and nothing else.
func (r *rig) trust(bundles x509bundle.Source) {
	r.tb.Helper()
	set, ok := bundles.(*x509bundle.Set)
	if !ok {
		set = x509bundle.NewSet(bundles.(*x509bundle.Bundle))
	}
	next := *r.proxy.self.current.Load()
	next.bundles = set
	r.proxy.self.current.Store(&next)
}

// The rows that crypto/tls refuses before our validator sees the chain.
func refusedByTLS(reason string) bool {
	switch reason {
	case "malformed-certificate", "unsupported-key", "no-key-proof", "no-client-certificate":
		return true
	}
	return false
}

// TestListenerRows sends every chain of the corpus through a TLS handshake: the
// bad one is refused and counted under its reason, its twin gets an answer.
func TestListenerRows(t *testing.T) {
	r := start(t)
	world, err := corpus.New(time.Now())
	must(t, err)
	cases := world.X509()
	must(t, world.Err())
	r.setPolicies(policy.Policy{Name: "all", Effect: policy.Allow, Subjects: domainsOf(cases),
		Service: "echo", Methods: []string{"GET"}, Paths: []string{"/echo/**"}})
	shown := 0
	for _, c := range cases {
		if c.Exact || c.Key == nil {
			continue
		}
		shown++
		if c.Want == "" {
			t.Run(c.Row+"/accepted/"+c.Name, func(t *testing.T) { r.as(t).mustAdmit(c) })
			continue
		}
		t.Run(c.Row+"/refused/"+c.Name, func(t *testing.T) { r.as(t).mustRefuse(c) })
		if c.Twin.Key != nil {
			t.Run(c.Row+"/twin/"+c.Name, func(t *testing.T) { r.as(t).mustAdmit(*c.Twin) })
		}
	}
	if shown < 120 {
		t.Errorf("only %d chains were shown: the test sees too little", shown)
	}
}

// domainsOf gives everybody in the trust domains of the cases' good IDs.
func domainsOf(cases []corpus.Case) []string {
	seen := map[string]bool{}
	for _, c := range cases {
		for c := &c; c != nil; c = c.Twin {
			if c.Want == "" {
				seen[c.ID.TrustDomain().IDString()+"/**"] = true
			}
		}
	}
	return slices.Collect(maps.Keys(seen))
}

func (r *rig) mustAdmit(c corpus.Case) {
	r.tb.Helper()
	r.trust(c.Bundles)
	g, err := r.request(showing(c.Chain, c.Key))
	if err != nil || g.status != 200 {
		r.tb.Errorf("status %d, %v: %s", g.status, err, g.body)
	}
}

func (r *rig) mustRefuse(c corpus.Case) {
	r.tb.Helper()
	r.trust(c.Bundles)
	before := r.refusals()
	g, err := r.request(showing(c.Chain, c.Key))
	if err == nil {
		r.tb.Fatalf("answered %d: %s", g.status, g.body)
	}
	reason := ""
	r.eventually("the refusal to be counted", func() bool {
		for name, n := range r.refusals() {
			if n > before[name] {
				reason = name
			}
		}
		return reason != ""
	})
	if reason != string(c.Want) && !refusedByTLS(reason) {
		r.tb.Errorf("refused for %q, want %q", reason, c.Want)
	}
	if reason != string(c.Want) {
		r.tb.Logf("crypto/tls refuses it first, for %q", reason)
	}
}

// refusals gives the handshakes refused so far, by reason.
func (r *rig) refusals() map[string]float64 {
	counts := map[string]float64{}
	for _, line := range strings.Split(r.scrape(), "\n") {
		rest, ok := strings.CutPrefix(line, `icp_proxy_handshakes_refused_total{`)
		if !ok {
			continue
		}
		_, rest, _ = strings.Cut(rest, `reason="`)
		reason, _, _ := strings.Cut(rest, `"`)
		counts[reason] = valueOf(line)
	}
	return counts
}

func TestHandshakes(t *testing.T) {
	r := start(t)
	good := r.ca.issue(t, "/bot")
	refusal := func(t *testing.T, reason string, attempt func() error) {
		t.Helper()
		r := r.as(t)
		before := r.refusals()[reason]
		if err := attempt(); err == nil {
			t.Error("it was accepted")
		}
		r.eventually("a refusal for "+reason, func() bool { return r.refusals()[reason] == before+1 })
	}
	ask := func(config *tls.Config) func() error {
		return func() error { _, err := r.request(config); return err }
	}
	twin := func(t *testing.T, config *tls.Config) {
		t.Helper()
		if g, err := r.as(t).request(config); err != nil || g.status != 200 {
			t.Errorf("%d %v", g.status, err)
		}
	}
	t.Run("V-41/refused", func(t *testing.T) { refusal(t, "no-client-certificate", ask(tlsClient())) })
	t.Run("V-41/twin", func(t *testing.T) { twin(t, tlsClient(good)) })
	t.Run("V-41-no-key-proof/refused", func(t *testing.T) {
		stolen := showing(good.Certificate, newKey(t))
		refusal(t, "no-key-proof", ask(stolen))
	})
	t.Run("V-45-tls11/refused", func(t *testing.T) {
		config := tlsClient(good)
		config.MinVersion, config.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
		refusal(t, "tls-version", ask(config))
	})
	t.Run("V-45-cbc/refused", func(t *testing.T) {
		config := tlsClient(good)
		config.MaxVersion, config.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}
		refusal(t, "cipher-suite", ask(config))
	})
	t.Run("V-45-tls12/twin", func(t *testing.T) {
		config := tlsClient(good)
		config.MaxVersion = tls.VersionTLS12
		twin(t, config)
	})
	t.Run("V-45-alpn/refused", func(t *testing.T) {
		refusal(t, "alpn", func() error {
			config := tlsClient(good)
			config.NextProtos = []string{"evil\r\n{\"level\":\"ERROR\"}"}
			conn, err := tls.Dial("tcp", r.addr, config)
			if err == nil {
				conn.Close()
			}
			return err
		})
		for _, line := range strings.Split(r.log.String(), "\n") {
			if strings.HasPrefix(line, `{"level":"ERROR"`) {
				t.Error("a caller wrote a line of the log")
			}
		}
	})
	t.Run("plain-http/refused", func(t *testing.T) {
		refusal(t, "not-tls", func() error {
			resp, err := http.Get("http://" + r.addr + "/echo/x")
			if err == nil {
				resp.Body.Close()
			}
			return err
		})
	})
}

// Callers that say nothing do not keep others out.
func TestSilentCallers(t *testing.T) {
	r := start(t)
	for range 50 {
		conn, err := net.Dial("tcp", r.addr)
		must(t, err)
		defer conn.Close()
		_, _ = conn.Write([]byte{0x16})
	}
	t.Run("V-46/twin", func(t *testing.T) {
		if g, err := r.as(t).request(tlsClient(r.ca.issue(t, "/bot"))); err != nil || g.status != 200 {
			t.Errorf("%d %v", g.status, err)
		}
	})
}

// Without an SVID of its own, or without anybody to trust, the proxy takes no
// connection.
func TestFailClosed(t *testing.T) {
	r := prepare(t)
	r.run()
	bot := r.ca.issue(t, "/bot")
	t.Run("P-10/no-svid/refused", func(t *testing.T) {
		r := r.as(t)
		if g, err := r.request(tlsClient(bot)); err == nil {
			t.Errorf("answered %d", g.status)
		}
		if r.ready() {
			t.Error("it says that it is ready")
		}
		r.eventually("the refusal to be counted", func() bool { return r.refusals()["no-svid"] > 0 })
	})
	own := r.ca.issue(t, "/proxy")
	r.wl.set(t, []tls.Certificate{own}, r.ca)
	t.Run("P-10/twin", func(t *testing.T) {
		r := r.as(t)
		r.eventually("readiness", r.ready)
		if g, err := r.request(tlsClient(bot)); err != nil || g.status != 200 {
			t.Errorf("%d %v", g.status, err)
		}
	})
	t.Run("P-10/empty-bundle/refused", func(t *testing.T) {
		r := r.as(t)
		update := proto.Clone(r.wl.current).(*workload.X509SVIDResponse)
		update.Svids[0].Bundle = nil
		r.wl.send(update)
		r.eventually("the proxy to trust nobody", func() bool { return !r.ready() })
		if g, err := r.request(tlsClient(bot)); err == nil {
			t.Errorf("answered %d", g.status)
		}
	})
	t.Run("P-10/lost-socket/twin", func(t *testing.T) {
		r := r.as(t)
		r.wl.set(t, []tls.Certificate{own}, r.ca)
		r.eventually("readiness", r.ready)
		r.wl.server.Stop()
		if g, err := r.request(tlsClient(bot)); err != nil || g.status != 200 {
			t.Errorf("the last good SVID: %d %v", g.status, err)
		}
	})
	t.Run("P-10/own-svid-expired/refused", func(t *testing.T) {
		r := r.as(t)
		r.clock.advance(2 * time.Hour)
		before := r.refusals()["no-svid"]
		if g, err := r.request(tlsClient(bot)); err == nil {
			t.Errorf("answered %d", g.status)
		}
		r.eventually("the refusal to be counted", func() bool { return r.refusals()["no-svid"] == before+1 })
		if r.ready() {
			t.Error("the proxy still has an identity")
		}
	})
}

func (r *rig) ready() bool {
	resp, err := http.Get(r.metrics + "/readyz")
	must(r.tb, err)
	defer http.DefaultClient.CloseIdleConnections()
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode == http.StatusOK
}

// Anybody can open connections that are refused: each is counted, and few of
// them fill the log.
func TestRefusedHandshakesDoNotFillTheLog(t *testing.T) {
	r := start(t)
	const many = 100
	for range many {
		conn, err := net.Dial("tcp", r.addr)
		must(t, err)
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\n\r\n") // the answer may come first
		conn.Close()
	}
	r.eventually("all to be counted", func() bool { return r.metric("icp_proxy_handshakes_refused_total") == many })
	if n := strings.Count(r.log.String(), "handshake refused"); n == 0 || n > many/2 {
		t.Errorf("%d lines in the log for %d refusals", n, many)
	}
}
