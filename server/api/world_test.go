package api_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/csr"
	"github.com/authsec-ai/icp/internal/telemetry"
	"github.com/authsec-ai/icp/internal/wire"
	"github.com/authsec-ai/icp/server"
	"github.com/authsec-ai/icp/server/ca"
	"github.com/authsec-ai/icp/server/keys/disk"
	"github.com/authsec-ai/icp/server/nodes"
	"github.com/authsec-ai/icp/server/nodes/jointoken"
	"github.com/authsec-ai/icp/server/registry"
	"github.com/authsec-ai/icp/server/servertls"
	"github.com/authsec-ai/icp/server/store"
	"github.com/authsec-ai/icp/server/store/sqlite"
)

// clock is real time, moved by hand.
type clock struct{ offset atomic.Int64 }

func (c *clock) Now() time.Time          { return time.Now().Add(time.Duration(c.offset.Load())) }
func (c *clock) Advance(d time.Duration) { c.offset.Add(int64(d)) }

// world is a whole server on a real port with a real store.
type world struct {
	t         testing.TB
	clock     *clock
	store     store.Store
	ca        *ca.CA
	dbPath    string
	server    *server.Server
	telemetry *telemetry.Telemetry
	log       *bytes.Buffer // read it after stop
	url       string
	roots     *x509.CertPool
	platform  string // token of a platform administrator
	stop      func()
}

const heartbeat = 300 * time.Millisecond

func newWorld(t testing.TB) *world {
	t.Helper()
	return newWorldOn(t, func(s store.Store) store.Store { return s })
}

// newWorldOn puts something between the server and its store.
func newWorldOn(t testing.TB, wrap func(store.Store) store.Store) *world {
	t.Helper()
	w := &world{t: t, clock: &clock{}, log: &bytes.Buffer{}, dbPath: filepath.Join(t.TempDir(), "icp.db")}
	ctx, cancel := context.WithCancel(context.Background())
	w.store = must(sqlite.Open(ctx, w.dbPath, sqlite.Options{}))(t)
	w.store = wrap(w.store)
	w.telemetry = must(telemetry.New("test", w.log, slog.LevelDebug))(t)
	custody := must(disk.Open(filepath.Join(t.TempDir(), "keys")))(t)
	authority := must(ca.New(ca.Config{Store: w.store, Custody: custody, Now: w.clock.Now, Rand: rand.Reader,
		Log: w.telemetry.Log, Meter: w.telemetry.Meter}))(t)
	w.ca = authority
	cert, caFile, err := servertls.LoadOrCreate(t.TempDir(), []string{"127.0.0.1"}, time.Now())
	check(t, err)
	w.roots = x509.NewCertPool()
	w.roots.AppendCertsFromPEM(must(os.ReadFile(caFile))(t))
	w.server = must(server.New(server.Config{
		Listen: "127.0.0.1:0", Store: w.store, CA: authority, Telemetry: w.telemetry, Now: w.clock.Now, Random: rand.Reader,
		Verifiers:      map[string]nodes.Verifier{jointoken.Method: jointoken.Verifier{Tokens: w.store}},
		TLSCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &cert, nil },
		Heartbeat:      heartbeat,
	}))(t)
	addr := must(w.server.Listen())(t)
	w.url = "https://" + addr.String()
	ended := make(chan error, 1)
	go func() { ended <- w.server.Run(ctx) }()
	stopped := false
	w.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		check(t, <-ended)
		authority.Close()
		check(t, w.store.Close())
	}
	t.Cleanup(w.stop)
	t.Cleanup(func() {
		if t.Failed() {
			w.stop()
			t.Log(w.log.String())
		}
	})
	_, w.platform, err = w.server.Registry.CreateAPIToken(ctx, registry.System(), "", "root", store.PlatformAdmin, 0)
	check(t, err)
	return w
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		check(t, err)
		return v
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// client is somebody who calls the server.
type client struct {
	w     *world
	http  *http.Client
	token string
}

// as is a client with an API token ("" for none) and no certificate.
func (w *world) as(token string) *client {
	return &client{w: w, http: w.httpClient(&tls.Config{RootCAs: w.roots}), token: token}
}

// withCert is a client with a certificate.
func (w *world) withCert(chain [][]byte, key *ecdsa.PrivateKey) *client {
	return &client{w: w, http: w.httpClient(&tls.Config{
		RootCAs: w.roots, NextProtos: []string{wire.ALPN, "h2"},
		Certificates: []tls.Certificate{{Certificate: chain, PrivateKey: key}},
	})}
}

func (w *world) httpClient(cfg *tls.Config) *http.Client {
	transport := &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: true}
	w.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// do sends one request; headers are "Name: value". One that begins with '+' is
// sent beside another of its name.
func (c *client) do(method, path, body string, headers ...string) answer {
	t := c.w.t
	t.Helper()
	req := must(http.NewRequest(method, c.w.url+path, strings.NewReader(body)))(t)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Del(name)
		if value != "" {
			if again, ok := strings.CutPrefix(name, "+"); ok {
				req.Header.Add(again, value)
				continue
			}
			req.Header.Set(name, value)
		}
	}
	resp := must(c.http.Do(req))(t)
	defer resp.Body.Close()
	return answer{status: resp.StatusCode, header: resp.Header, body: must(io.ReadAll(resp.Body))(t)}
}

// want fails the test unless the status is that, and decodes the body into v
// unless that is nil.
func (a answer) want(t testing.TB, status int, v any) answer {
	t.Helper()
	if a.status != status {
		t.Fatalf("status %d, want %d: %s", a.status, status, a.body)
	}
	if v != nil {
		check(t, json.Unmarshal(a.body, v))
	}
	return a
}

// detail gives the problem's text.
func (a answer) detail() string {
	var p struct{ Detail string }
	if json.Unmarshal(a.body, &p) != nil {
		return "no problem document: " + string(a.body)
	}
	return p.Detail
}

func doc(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(raw)
}

// tenant is a customer with an administrator.
type tenant struct {
	w     *world
	id    string
	td    string
	admin *client
}

func (w *world) newTenant(id string) *tenant {
	w.t.Helper()
	td := id + ".example"
	w.as(w.platform).do("POST", "/api/v1/tenants", doc(map[string]any{"id": id, "trust_domain": td})).want(w.t, 201, nil)
	tn := &tenant{w: w, id: id, td: td}
	tn.admin = tn.as(store.TenantAdmin)
	return tn
}

// as is a client with a new token of that role.
func (tn *tenant) as(role store.Role) *client {
	tn.w.t.Helper()
	var got struct{ Token string }
	tn.w.as(tn.w.platform).do("POST", "/api/v1/tokens", doc(map[string]any{
		"tenant_id": tn.id, "name": "test-" + string(role), "role": role})).want(tn.w.t, 201, &got)
	return tn.w.as(got.Token)
}

func (tn *tenant) spiffeID(path string) string { return "spiffe://" + tn.td + path }

// entry creates an entry for the agent of that name.
func (tn *tenant) entry(node, path string, more map[string]any) identity.Entry {
	tn.w.t.Helper()
	body := map[string]any{"spiffe_id": tn.spiffeID(path), "parent_id": tn.spiffeID("/agent/" + node), "selectors": []string{"unix:uid:1000"}}
	for k, v := range more {
		body[k] = v
	}
	var e identity.Entry
	tn.admin.do("POST", "/api/v1/workloads", doc(body)).want(tn.w.t, 201, &e)
	return e
}

func (tn *tenant) joinToken(body map[string]any) string {
	tn.w.t.Helper()
	var got struct{ Token string }
	if body == nil {
		body = map[string]any{}
	}
	tn.admin.do("POST", "/api/v1/join-tokens", doc(body)).want(tn.w.t, 201, &got)
	return got.Token
}

// node is an attested agent.
type node struct {
	*client
	tn    *tenant
	name  string
	id    string
	key   *ecdsa.PrivateKey
	chain [][]byte
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
}

func newCSR(t testing.TB, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	return must(csr.New(key))(t)
}

// attest lets a new agent of that name in.
func (tn *tenant) attest(name string) *node {
	tn.w.t.Helper()
	token := tn.joinToken(map[string]any{"node_name": name})
	key := newKey(tn.w.t)
	var got wire.AttestResponse
	tn.w.as("").do("POST", wire.PathAttest, doc(wire.AttestRequest{
		Method: jointoken.Method, Token: token, CSR: newCSR(tn.w.t, key)})).want(tn.w.t, 200, &got)
	n := &node{tn: tn, name: name, id: got.AgentID, key: key}
	n.use(got)
	return n
}

// use takes a new SVID and connects with it from now on.
func (n *node) use(got wire.AttestResponse) {
	n.chain = decodeChain(n.tn.w.t, got.Certificate)
	n.client = n.tn.w.withCert(n.chain, n.key)
}

func decodeChain(t testing.TB, text string) (chain [][]byte) {
	t.Helper()
	rest := []byte(text)
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		chain = append(chain, block.Bytes)
	}
	if len(chain) == 0 {
		t.Fatalf("no certificate in %q", text)
	}
	return chain
}

// renew asks for a new SVID.
func (n *node) renew() answer {
	return n.do("POST", wire.PathRenew, doc(wire.RenewRequest{CSR: newCSR(n.tn.w.t, n.key)}))
}

// svid gets an X.509-SVID for an entry.
func (n *node) svid(e identity.Entry) (chain [][]byte, key *ecdsa.PrivateKey, err error) {
	t := n.tn.w.t
	t.Helper()
	key = newKey(t)
	var got wire.SignResponse
	n.do("POST", wire.PathSign, doc(wire.SignRequest{Items: []wire.SignItem{{
		RequestID: rand.Text(), EntryID: e.ID, EntryRevision: e.Revision, Selectors: e.Selectors, CSR: newCSR(t, key),
	}}})).want(t, 200, &got)
	if got.Results[0].Error != nil {
		return nil, nil, got.Results[0].Error.Err()
	}
	return got.Results[0].Chain, key, nil
}

// frames reads a stream in the background until it ends or the test does.
type frames[T any] struct {
	t      testing.TB
	status int
	body   []byte // of a refusal
	lines  chan T // closed at the end
}

const patience = 20 * time.Second

func open[T any](c *client, path string) *frames[T] {
	t := c.w.t
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	req := must(http.NewRequestWithContext(ctx, http.MethodGet, c.w.url+path, nil))(t)
	resp, err := c.http.Do(req)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	f := &frames[T]{t: t, status: resp.StatusCode, lines: make(chan T, 10000)}
	done := make(chan struct{})
	t.Cleanup(func() { cancel(); <-done })
	go func() {
		defer close(done)
		defer resp.Body.Close()
		defer close(f.lines)
		if resp.StatusCode != http.StatusOK {
			f.body, _ = io.ReadAll(resp.Body)
			return
		}
		limit := wire.MaxFrameBytes
		if path == wire.PathGateway {
			limit = wire.MaxPolicyFrameBytes
		}
		lines := bufio.NewScanner(resp.Body)
		lines.Buffer(nil, limit)
		for lines.Scan() {
			var frame T
			if json.Unmarshal(lines.Bytes(), &frame) != nil {
				return
			}
			f.lines <- frame
		}
	}()
	return f
}

// next gives the next frame that accept wants.
func (f *frames[T]) next(accept func(T) bool) T {
	f.t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case frame, ok := <-f.lines:
			if !ok {
				f.t.Fatalf("the stream ended (status %d %s) before the frame came", f.status, f.body)
			}
			if accept(frame) {
				return frame
			}
		case <-timeout:
			f.t.Fatalf("the frame did not come within %s", patience)
		}
	}
}

// ends waits for the end of the stream.
func (f *frames[T]) ends() {
	f.t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case _, ok := <-f.lines:
			if !ok {
				return
			}
		case <-timeout:
			f.t.Fatalf("the stream did not end within %s", patience)
		}
	}
}

func syncPath(c store.Cursor) string {
	return fmt.Sprintf("%s?epoch=%s&revision=%d", wire.PathSync, c.Epoch, c.Revision)
}
