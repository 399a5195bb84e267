package api_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/authsec-ai/icp/internal/wire"
)

// handshake connects and reports whether a certificate was asked for.
func (w *world) handshake(cfg *tls.Config) (asked bool, state tls.ConnectionState, err error) {
	cfg.RootCAs = w.roots
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		asked = true
		return &tls.Certificate{}, nil
	}
	conn, err := tls.Dial("tcp", strings.TrimPrefix(w.url, "https://"), cfg)
	if err != nil {
		return asked, state, err
	}
	defer conn.Close()
	return asked, conn.ConnectionState(), nil
}

func TestTLS(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]struct {
		offers []string
		asked  bool
	}{
		"FED-12/browser":     {[]string{"h2", "http/1.1"}, false},
		"FED-12/offers none": {nil, false},
		"FED-12/twin: agent": {[]string{wire.ALPN, "h2"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			asked, state, err := w.handshake(&tls.Config{NextProtos: c.offers})
			check(t, err)
			if asked != c.asked {
				t.Errorf("asked for a certificate: %v, want %v", asked, c.asked)
			}
			if slices.Contains(c.offers, "h2") && state.NegotiatedProtocol != "h2" {
				t.Errorf("negotiated %q, want h2", state.NegotiatedProtocol)
			}
		})
	}
	for name, c := range map[string]struct {
		cfg *tls.Config
		ok  bool
	}{
		"FED-08/TLS 1.1":       {&tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, false},
		"FED-08/CBC alone":     {&tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA}}, false},
		"FED-08/RC4 alone":     {&tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_RC4_128_SHA}}, false},
		"FED-08/twin: TLS 1.2": {&tls.Config{MaxVersion: tls.VersionTLS12}, true},
		"FED-08/twin: TLS 1.3": {&tls.Config{MinVersion: tls.VersionTLS13}, true},
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, err := w.handshake(c.cfg); (err == nil) != c.ok {
				t.Errorf("handshake: %v, want it to succeed: %v", err, c.ok)
			}
		})
	}
}

// TestForwardedCertificate is SV-11: what stands in a header is not a proof,
// wherever the request comes from.
func TestForwardedCertificate(t *testing.T) {
	w := newWorld(t)
	n := w.newTenant("acme").attest("n1")
	leaf := n.chain[0]
	for _, header := range []string{"X-Forwarded-Client-Cert", "X-Client-Cert", "Ssl-Client-Cert", "X-Ssl-Client-Cert", "Client-Cert", "X-Spiffe-Id"} {
		for _, value := range []string{n.id, "By=x;URI=" + n.id, ":" + string(mustJSON(leaf)) + ":"} {
			t.Run("SV-11/"+header, func(t *testing.T) {
				w.as("").do("POST", wire.PathRenew, doc(wire.RenewRequest{CSR: newCSR(t, n.key)}), header+": "+value).want(t, 401, nil)
			})
		}
	}
	t.Run("SV-11/twin", func(t *testing.T) { n.renew().want(t, 200, nil) })
}

func mustJSON(v any) []byte {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return raw
}

func TestBundleEndpoint(t *testing.T) {
	w := newWorld(t)
	a := w.newTenant("acme")
	t.Run("FED-13/GET", func(t *testing.T) {
		got := w.as("").do("GET", "/bundles/acme.example", "").want(t, 200, nil)
		if got.header.Get("Content-Type") != "application/json" {
			t.Errorf("content type %q", got.header.Get("Content-Type"))
		}
		b := must(spiffebundle.Parse(spiffeid.RequireTrustDomainFromString(a.td), got.body))(t)
		if len(b.X509Authorities()) != 1 || len(b.JWTAuthorities()) != 1 {
			t.Errorf("%d anchors and %d JWT keys, want one each", len(b.X509Authorities()), len(b.JWTAuthorities()))
		}
	})
	for _, method := range []string{"POST", "PUT", "DELETE"} {
		t.Run("FED-13/"+method, func(t *testing.T) {
			got := w.as("").do(method, "/bundles/acme.example", "{}").want(t, 405, nil)
			if !strings.Contains(got.header.Get("Allow"), "GET") {
				t.Errorf("Allow is %q", got.header.Get("Allow"))
			}
		})
	}
	t.Run("CA-9", func(t *testing.T) {
		var pem struct {
			Tenant string `json:"tenant_id"`
			Bundle string `json:"ca_bundle"`
		}
		w.as("").do("GET", "/spiresvc/bundle/acme", "").want(t, 200, &pem)
		b := must(spiffebundle.Parse(spiffeid.RequireTrustDomainFromString(a.td), w.as("").do("GET", "/bundles/acme.example", "").body))(t)
		if chain := decodeChain(t, pem.Bundle); pem.Tenant != "acme" || len(chain) != 1 || string(chain[0]) != string(b.X509Authorities()[0].Raw) {
			t.Error("the two bundles differ")
		}
	})
}

// TestMetrics reads what an operator would scrape.
func TestMetrics(t *testing.T) {
	w := newWorld(t)
	n := w.newTenant("acme").attest("n1")
	open[wire.SyncFrame](n.client, wire.PathSync).next(done)
	w.as("icp-api-wrong").do("GET", "/api/v1/workloads", "").want(t, 401, nil)
	w.as("").do("POST", wire.PathAttest, doc(wire.AttestRequest{Method: "join_token", Token: "icp-join-wrong", CSR: newCSR(t, newKey(t))})).want(t, 401, nil)
	rec := httptest.NewRecorder()
	w.telemetry.Handler().ServeHTTP(rec, must(http.NewRequestWithContext(context.Background(), "GET", "/metrics", nil))(t))
	for _, line := range []string{
		`icp_server_requests_total{route="GET /api/v1/workloads",status="401"} 1`,
		`icp_server_auth_failures_total{route="GET /api/v1/workloads"} 1`,
		`icp_server_attestations_total{action="attest",cause="",outcome="allowed"} 1`,
		`icp_server_attestations_total{action="attest",cause="unauthenticated",outcome="denied"} 1`,
		`icp_server_streams{route="GET /api/v1/agent/sync"} 1`,
	} {
		if !strings.Contains(rec.Body.String(), line) {
			t.Errorf("no %s in\n%s", line, rec.Body)
		}
	}
}
