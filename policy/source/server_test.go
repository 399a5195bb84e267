package source_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/wire"
	"github.com/authsec-ai/icp/policy"
	"github.com/authsec-ai/icp/policy/source"
)

// controlPlane speaks the gateway's end of the wire over mTLS and HTTP/2.
type controlPlane struct {
	*httptest.Server
	client *tls.Config // of a gateway

	mu       sync.Mutex
	streams  []chan any // of what to send: a frame, or text as it is
	opening  any        // sent first on every stream, nil for nothing
	status   int        // answered instead of a stream, 0 for a stream
	opened   int
	protocol string
	peer     string
}

func newControlPlane(t *testing.T) *controlPlane {
	t.Helper()
	anchor, key := newAnchor(t)
	pool := x509.NewCertPool()
	pool.AddCert(anchor)
	server := issue(t, anchor, key, "spiffe://td/server")
	gateway := issue(t, anchor, key, "spiffe://td/gateway")

	p := &controlPlane{client: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{gateway}}}
	p.Server = httptest.NewUnstartedServer(p)
	p.EnableHTTP2 = true
	p.TLS = &tls.Config{Certificates: []tls.Certificate{server}}
	asking := &tls.Config{Certificates: []tls.Certificate{server}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, NextProtos: []string{"h2"}}
	p.TLS.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if slices.Contains(hello.SupportedProtos, wire.ALPN) {
			return asking, nil
		}
		return nil, nil
	}
	p.StartTLS()
	t.Cleanup(p.stop)
	return p
}

func (p *controlPlane) stop() {
	p.CloseClientConnections()
	p.Close()
}

// ServeHTTP streams what send is given until the client goes.
func (p *controlPlane) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != wire.PathGateway || r.Method != http.MethodGet || r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		http.Error(w, "no such page for you", http.StatusUnauthorized)
		return
	}
	frames := make(chan any, 64)
	p.mu.Lock()
	p.opened++
	p.protocol, p.peer = r.Proto, r.TLS.PeerCertificates[0].URIs[0].String()
	opening, status := p.opening, p.status
	p.streams = append(p.streams, frames)
	p.mu.Unlock()
	if status != 0 {
		http.Error(w, `{"detail":"no gateway grant"}`, status)
		return
	}
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush()
	if opening != nil {
		frames <- opening
	}
	for {
		select {
		case <-r.Context().Done():
			return
		case frame := <-frames:
			if frame == nil {
				return
			}
			if text, ok := frame.(string); ok {
				_, _ = w.Write([]byte(text))
			} else {
				_ = json.NewEncoder(w).Encode(frame)
			}
			w.(http.Flusher).Flush()
		}
	}
}

// send puts frame on every open stream; nil ends them.
func (p *controlPlane) send(frame any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.streams {
		s <- frame
	}
	if frame == nil {
		p.streams = nil
	}
}

// open sets what a stream starts with.
func (p *controlPlane) open(frame any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.opening = frame
}

func (p *controlPlane) openedStreams() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.opened
}

func frameOf(revision int64, policies ...policy.Policy) wire.PolicyFrame {
	return wire.PolicyFrame{Policies: &policy.Set{Epoch: "e", Revision: revision, Policies: policies}, Revocations: &[]identity.Revocation{}}
}

// followServer runs a Server that reconnects quickly.
func followServer(t *testing.T, p *controlPlane, sink source.Sink, change func(*source.ServerConfig)) (*source.Server, func()) {
	t.Helper()
	transport := source.Transport(p.client)
	t.Cleanup(transport.CloseIdleConnections)
	cfg := source.ServerConfig{URL: p.URL, Transport: transport, Log: quiet(), RetryMin: 5 * time.Millisecond, RetryMax: 50 * time.Millisecond}
	if change != nil {
		change(&cfg)
	}
	server, err := source.NewServer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return server, run(t, server, sink)
}

func TestServerDelivers(t *testing.T) {
	p, gw := newControlPlane(t), newGateway()
	p.open(frameOf(1, botPolicy("first")))
	server, _ := followServer(t, p, gw, nil)
	eventually(t, gw.decides, "first")
	if p.protocol != "HTTP/2.0" || p.peer != "spiffe://td/gateway" {
		t.Errorf("the stream came over %s from %s", p.protocol, p.peer)
	}

	t.Run("SV-12", func(t *testing.T) { // live in every proxy within 1 s
		start := time.Now()
		p.send(frameOf(2, botPolicy("second")))
		eventually(t, gw.decides, "second")
		if took := time.Since(start); took > time.Second {
			t.Errorf("a change took %s", took)
		}
	})
	p.send(wire.PolicyFrame{Revocations: &[]identity.Revocation{{Kind: identity.X509, Serial: "0a"}}})
	eventually(t, func() bool { return gw.isRevoked("0a") }, true)
	p.send(wire.PolicyFrame{Time: time.Now()}) // a heartbeat changes nothing
	p.send(frameOf(3))                         // the last policy is deleted: everything is denied
	eventually(t, gw.decides, policy.ReasonDefault)
	if gw.isRevoked("0a") {
		t.Error("an empty list of revocations was not taken as complete")
	}
	if st := server.State(); !st.Loaded || st.Stale || st.Revision != 3 || st.Epoch != "e" || st.Check(context.Background()) != nil {
		t.Errorf("state is %+v", st)
	}
}

// A list of revocations that lacks one which has not expired is an older list.
func TestServerKeepsRevocations(t *testing.T) {
	p, gw := newControlPlane(t), newGateway()
	revoked := func(serial string, left time.Duration) identity.Revocation {
		return identity.Revocation{Kind: identity.X509, Serial: serial, SPIFFEID: "spiffe://td/bot", ExpiresAt: time.Now().Add(left)}
	}
	newer := frameOf(1, botPolicy("good"))
	*newer.Revocations = []identity.Revocation{revoked("0a", time.Hour), revoked("0b", -time.Second)}
	p.open(newer)
	followServer(t, p, gw, nil)
	eventually(t, func() bool { return gw.isRevoked("0a") && gw.isRevoked("0b") }, true)
	p.send(wire.PolicyFrame{Revocations: &[]identity.Revocation{revoked("0c", time.Hour)}})
	eventually(t, func() bool { return gw.isRevoked("0c") }, true)
	t.Run("V-40/older-list/refused", func(t *testing.T) {
		if !gw.isRevoked("0a") {
			t.Error("an older list brought a revoked SVID back")
		}
	})
	t.Run("V-40/older-list/twin", func(t *testing.T) {
		if gw.isRevoked("0b") {
			t.Error("the revocation of an expired SVID is kept")
		}
	})
}

func TestServerTakesNullForNoPolicies(t *testing.T) {
	p, gw := newControlPlane(t), newGateway()
	p.open(frameOf(1, botPolicy("first")))
	followServer(t, p, gw, nil)
	eventually(t, gw.decides, "first")
	p.send(`{"policies":{"epoch":"e","revision":2,"policies":null}}` + "\n")
	eventually(t, gw.decides, policy.ReasonDefault)
}

func TestServerKeepsWhatWorks(t *testing.T) {
	broken := botPolicy("broken")
	broken.Paths = nil
	for _, c := range []struct {
		row, problem string
		frame        any
	}{
		{"P-64", "paths: is empty", frameOf(6, broken)},
		{"P-64/unknown key", `unknown field "rules"`, `{"policies":{"epoch":"e","revision":6,"policies":[],"rules":[]}}` + "\n"},
		{"P-66", "older than revision 5", frameOf(4)},
		{"newer engine", "need engine version 2", wire.PolicyFrame{Policies: &policy.Set{Epoch: "e", Revision: 6, MinEngine: 2, Policies: []policy.Policy{}}}},
	} {
		t.Run(c.row, func(t *testing.T) {
			p, gw := newControlPlane(t), newGateway()
			p.open(frameOf(5, botPolicy("good")))
			server, _ := followServer(t, p, gw, nil)
			eventually(t, gw.decides, "good")
			p.send(c.frame)
			eventually(t, func() bool { return strings.Contains(server.State().Problem, c.problem) }, true)
			if got := gw.decides(); got != "good" {
				t.Errorf("the old set is gone: %s", got)
			}
			if n := p.openedStreams(); n != 1 {
				t.Errorf("a refused set ended the stream: %d were opened", n)
			}
			p.send(frameOf(7, botPolicy("twin")))
			eventually(t, gw.decides, "twin")
			eventually(t, func() string { return server.State().Problem }, "")
		})
	}
}

func TestServerLease(t *testing.T) {
	t.Run("P-65", func(t *testing.T) {
		p, gw := newControlPlane(t), newGateway()
		p.open(frameOf(1, botPolicy("good")))
		server, _ := followServer(t, p, gw, func(c *source.ServerConfig) { c.Lease = 2 * time.Second })
		eventually(t, gw.decides, "good")
		p.stop()
		eventually(t, func() bool { return server.State().Problem != "" }, true)
		if got := gw.decides(); got != "good" {
			t.Errorf("denied before the lease ended: %s", got)
		}
		eventually(t, gw.decides, policy.ReasonExpired)
		if err := server.State().Check(context.Background()); err == nil {
			t.Error("ready although everything is denied")
		}
	})
	t.Run("P-65/twin", func(t *testing.T) { // heartbeats alone keep a set in force
		p, gw := newControlPlane(t), newGateway()
		p.open(frameOf(1, botPolicy("good")))
		lease := time.Second
		server, _ := followServer(t, p, gw, func(c *source.ServerConfig) { c.Lease = lease })
		eventually(t, gw.decides, "good")
		for start := time.Now(); time.Since(start) < 2*lease; time.Sleep(lease / 20) {
			p.send(wire.PolicyFrame{Time: time.Now()})
		}
		if got := gw.decides(); got != "good" || server.State().Expired {
			t.Errorf("decides %s, state %+v", got, server.State())
		}
	})
	t.Run("P-65/back", func(t *testing.T) { // only the set itself brings access back
		p, gw := newControlPlane(t), newGateway()
		p.open(frameOf(1, botPolicy("old")))
		followServer(t, p, gw, func(c *source.ServerConfig) { c.Lease = 500 * time.Millisecond })
		eventually(t, gw.decides, policy.ReasonExpired)
		p.open(frameOf(1, botPolicy("good")))
		p.send(wire.PolicyFrame{Time: time.Now()}) // a late one: the set is asked for again
		eventually(t, func() bool { return gw.decides() != policy.ReasonExpired }, true)
		if got := gw.decides(); got == "old" || p.openedStreams() != 2 {
			t.Errorf("decides %s after %d streams", got, p.openedStreams())
		}
	})
	t.Run("P-65/plain sink", func(t *testing.T) { // one that can't expire gets an empty set
		p, gw := newControlPlane(t), newGateway()
		p.open(frameOf(1, botPolicy("good")))
		followServer(t, p, struct{ source.Sink }{gw}, func(c *source.ServerConfig) { c.Lease = 200 * time.Millisecond })
		eventually(t, gw.decides, policy.ReasonDefault)
	})
}

func TestServerReconnects(t *testing.T) {
	for name, end := range map[string]any{"closed": nil, "not JSON": "{\n", "over the limit": strings.Repeat("x", 17<<20)} {
		t.Run(name, func(t *testing.T) {
			p, gw := newControlPlane(t), newGateway()
			p.open(frameOf(1, botPolicy("first")))
			followServer(t, p, gw, nil)
			eventually(t, gw.decides, "first")
			p.open(frameOf(2, botPolicy("second")))
			p.send(end)
			eventually(t, gw.decides, "second")
		})
	}
	t.Run("silent", func(t *testing.T) {
		p, gw := newControlPlane(t), newGateway()
		p.open(frameOf(1, botPolicy("first")))
		server, _ := followServer(t, p, gw, func(c *source.ServerConfig) { c.Silence = 200 * time.Millisecond })
		eventually(t, gw.decides, "first")
		eventually(t, func() bool { return p.openedStreams() > 2 }, true)
		eventually(t, func() bool { return server.State().Failures > 1 }, true)
	})
	t.Run("refused", func(t *testing.T) {
		p, gw := newControlPlane(t), newGateway()
		p.status = http.StatusForbidden
		server, _ := followServer(t, p, gw, nil)
		eventually(t, func() bool { return strings.Contains(server.State().Problem, "the gateway's entry needs a grant") }, true)
		if got := gw.decides(); got != policy.ReasonNoSet {
			t.Errorf("decides %s", got)
		}
	})
}

// TestServerCacheAfterKill has the cache saved where a proxy was killed while it
// saved: nothing piles up beside it.
func TestServerCacheAfterKill(t *testing.T) {
	p, gw := newControlPlane(t), newGateway()
	dir := t.TempDir()
	cache := filepath.Join(dir, "policies.cache")
	if err := os.WriteFile(cache+".new", []byte("half a"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.open(frameOf(5, botPolicy("saved")))
	_, stop := followServer(t, p, gw, func(c *source.ServerConfig) { c.CacheFile = cache })
	eventually(t, gw.decides, "saved")
	eventually(t, func() bool { _, err := os.Stat(cache); return err == nil }, true)
	stop()
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 || files[0].Name() != "policies.cache" {
		t.Errorf("the folder holds %v (%v), want the cache alone", files, err)
	}
}

func TestServerCache(t *testing.T) {
	p, gw := newControlPlane(t), newGateway()
	cache := filepath.Join(t.TempDir(), "policies.cache")
	first := frameOf(5, botPolicy("cached"))
	*first.Revocations = []identity.Revocation{{Kind: identity.X509, Serial: "0a", ExpiresAt: time.Now().Add(time.Hour)}}
	p.open(first)
	withCache := func(lease time.Duration) func(*source.ServerConfig) {
		return func(c *source.ServerConfig) { c.CacheFile, c.Lease = cache, lease }
	}
	_, stop := followServer(t, p, gw, withCache(time.Hour))
	eventually(t, gw.decides, "cached")
	eventually(t, func() bool { _, err := os.Stat(cache); return err == nil }, true)
	stop()
	p.stop()

	info, err := os.Stat(cache)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("cache file: %v, %v", info.Mode(), err)
	}
	t.Run("P-65/restart within the lease", func(t *testing.T) {
		gw := newGateway()
		server, _ := followServer(t, p, gw, withCache(time.Hour))
		eventually(t, gw.decides, "cached")
		if st := server.State(); !st.Stale || st.Expired || st.Revision != 5 {
			t.Errorf("state is %+v", st)
		}
		if !gw.isRevoked("0a") {
			t.Error("revocations were forgotten")
		}
	})
	t.Run("P-65/restart after the lease", func(t *testing.T) {
		gw := newGateway()
		server, _ := followServer(t, p, gw, withCache(time.Nanosecond))
		eventually(t, gw.decides, policy.ReasonExpired)
		if !server.State().Expired {
			t.Errorf("state is %+v", server.State())
		}
	})
	t.Run("P-65/clock went back", func(t *testing.T) {
		forge(t, cache, `"contact":"20`, `"contact":"21`)
		defer forge(t, cache, `"contact":"21`, `"contact":"20`)
		gw := newGateway()
		followServer(t, p, gw, withCache(time.Hour))
		eventually(t, gw.decides, policy.ReasonExpired)
	})
	t.Run("P-66/restart", func(t *testing.T) { // the cache remembers how far we were
		older := newControlPlane(t)
		older.open(frameOf(4, botPolicy("replayed")))
		forge(t, cache, p.URL, older.URL)
		defer forge(t, cache, older.URL, p.URL)
		gw := newGateway()
		server, _ := followServer(t, older, gw, withCache(time.Hour))
		eventually(t, func() bool { return strings.Contains(server.State().Problem, "older than revision 5") }, true)
		if got := gw.decides(); got != "cached" {
			t.Errorf("decides %s", got)
		}
	})
	t.Run("another server's", func(t *testing.T) {
		gw := newGateway()
		server, _ := followServer(t, p, gw, func(c *source.ServerConfig) { c.CacheFile, c.URL = cache, "https://127.0.0.1:1" })
		eventually(t, func() bool { return server.State().Failures > 0 }, true)
		if got := gw.decides(); got != policy.ReasonNoSet {
			t.Errorf("decides %s", got)
		}
	})
	for name, spoil := range map[string]func(t *testing.T, path string){
		"others may write it": func(t *testing.T, path string) { must(t, os.Chmod(path, 0o620)) },
		"a link": func(t *testing.T, path string) {
			must(t, os.Rename(path, path+".real"))
			must(t, os.Symlink(path+".real", path))
		},
		"another user's": func(t *testing.T, path string) { must(t, os.Chown(path, 12345, -1)) },
	} {
		t.Run("P-65/"+name, func(t *testing.T) {
			if name == "another user's" && os.Geteuid() != 0 {
				t.Fatal("run the tests as root: they give a file away")
			}
			raw, err := os.ReadFile(cache)
			must(t, err)
			path := filepath.Join(t.TempDir(), "policies.cache")
			must(t, os.WriteFile(path, raw, 0o600))
			spoil(t, path)
			gw := newGateway()
			server, _ := followServer(t, p, gw, func(c *source.ServerConfig) { c.CacheFile, c.Lease = path, time.Hour })
			eventually(t, func() bool { return server.State().Failures > 0 }, true)
			if got := gw.decides(); got != policy.ReasonNoSet {
				t.Errorf("decides %s", got)
			}
		})
	}
	t.Run("damaged", func(t *testing.T) {
		if err := os.WriteFile(cache, []byte(`{"policies"`), 0o600); err != nil {
			t.Fatal(err)
		}
		gw := newGateway()
		server, _ := followServer(t, p, gw, withCache(time.Hour))
		eventually(t, func() bool { return server.State().Failures > 0 }, true)
		if got := gw.decides(); got != policy.ReasonNoSet {
			t.Errorf("decides %s", got)
		}
	})
}

// forge replaces text in a file.
func forge(t *testing.T, path, old, new string) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(raw), old) {
		t.Fatalf("%s does not contain %s", raw, old)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(raw), old, new, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestNewServerRefuses(t *testing.T) {
	good := source.ServerConfig{URL: "https://icp.example.org:8443", Transport: http.DefaultTransport, Log: quiet()}
	if _, err := source.NewServer(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*source.ServerConfig){
		"plain HTTP": func(c *source.ServerConfig) { c.URL = "http://icp.example.org" },
		"no host":    func(c *source.ServerConfig) { c.URL = "https:///x" },
		"transport":  func(c *source.ServerConfig) { c.Transport = nil },
		"log":        func(c *source.ServerConfig) { c.Log = nil },
		"lease":      func(c *source.ServerConfig) { c.Lease = -1 },
	} {
		cfg := good
		change(&cfg)
		if _, err := source.NewServer(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func newAnchor(t *testing.T) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func issue(t *testing.T, anchor *x509.Certificate, anchorKey *ecdsa.PrivateKey, id string) tls.Certificate {
	t.Helper()
	uri, err := url.Parse(id)
	if err != nil {
		t.Fatal(err)
	}
	key := newKey(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), URIs: []*url.URL{uri},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, anchor, key.Public(), anchorKey)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
