package proxy

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
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/authsec-ai/icp/internal/sampleupstream"
	"github.com/authsec-ai/icp/internal/telemetry"
	"github.com/authsec-ai/icp/policy"
	"github.com/authsec-ai/icp/proxy/credential"
	"github.com/authsec-ai/icp/proxy/upstream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// authority is the anchor of one trust domain.
type authority struct {
	td   string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

var serials atomic.Int64

func newKey(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

func newAuthority(tb testing.TB, td string) *authority {
	tb.Helper()
	key := newKey(tb)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serials.Add(1)), IsCA: true, BasicConstraintsValid: true,
		KeyUsage:  x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		URIs: []*url.URL{{Scheme: "spiffe", Host: td}},
	}
	return &authority{td: td, cert: sign(tb, template, template, key, key), key: key}
}

func sign(tb testing.TB, template, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) *x509.Certificate {
	tb.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	if err != nil {
		tb.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return cert
}

// issue makes an SVID; edits change what is signed.
func (a *authority) issue(tb testing.TB, path string, edits ...func(*x509.Certificate)) tls.Certificate {
	tb.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serials.Add(1)), BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		NotBefore:   time.Now().Add(-10 * time.Second), NotAfter: time.Now().Add(time.Hour),
		URIs: []*url.URL{{Scheme: "spiffe", Host: a.td, Path: path}},
	}
	for _, edit := range edits {
		edit(template)
	}
	key := newKey(tb)
	leaf := sign(tb, template, a.cert, key, a.key)
	return tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
}

func serialOf(cert tls.Certificate) string { return fmt.Sprintf("%x", cert.Leaf.SerialNumber) }

// workloadAPI serves X.509 contexts on a real socket.
type workloadAPI struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	addr   string
	server *grpc.Server

	mu      sync.Mutex
	current *workload.X509SVIDResponse
	changed chan struct{}
}

func newWorkloadAPI(tb testing.TB) *workloadAPI {
	tb.Helper()
	dir, err := os.MkdirTemp("", "wl") // short: a socket path has 107 bytes
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	w := &workloadAPI{addr: "unix://" + socket, changed: make(chan struct{})}
	inner, err := net.Listen("unix", socket)
	if err != nil {
		tb.Fatal(err)
	}
	w.server = grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(w.server, w)
	done := make(chan struct{})
	go func() { defer close(done); _ = w.server.Serve(inner) }()
	tb.Cleanup(func() { w.server.Stop(); <-done })
	return w
}

func (w *workloadAPI) set(tb testing.TB, svids []tls.Certificate, own *authority, others ...*authority) {
	tb.Helper()
	response := &workload.X509SVIDResponse{FederatedBundles: map[string][]byte{}}
	for _, cert := range svids {
		key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
		if err != nil {
			tb.Fatal(err)
		}
		response.Svids = append(response.Svids, &workload.X509SVID{
			SpiffeId: cert.Leaf.URIs[0].String(), X509Svid: bytes.Join(cert.Certificate, nil), X509SvidKey: key, Bundle: own.cert.Raw,
		})
	}
	for _, other := range others {
		response.FederatedBundles["spiffe://"+other.td] = other.cert.Raw
	}
	w.send(response)
}

func (w *workloadAPI) send(response *workload.X509SVIDResponse) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.current = response
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *workloadAPI) FetchX509SVID(_ *workload.X509SVIDRequest, stream workload.SpiffeWorkloadAPI_FetchX509SVIDServer) error {
	md, _ := metadata.FromIncomingContext(stream.Context())
	if v := md.Get("workload.spiffe.io"); len(v) != 1 || v[0] != "true" {
		return status.Error(codes.InvalidArgument, "security header missing")
	}
	for {
		w.mu.Lock()
		response, changed := w.current, w.changed
		w.mu.Unlock()
		if response != nil {
			if err := stream.Send(response); err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return nil
		}
	}
}

// clock is the wall clock, which a test may turn.
type clock struct{ offset atomic.Int64 }

func (c *clock) now() time.Time           { return time.Now().Add(time.Duration(c.offset.Load())) }
func (c *clock) advance(by time.Duration) { c.offset.Add(int64(by)) }

// rig is a running proxy with everything around it.
type rig struct {
	tb       testing.TB
	ca       *authority
	wl       *workloadAPI
	clock    *clock
	proxy    *Proxy
	config   Config
	addr     string
	metrics  string
	upstream *httptest.Server
	log      *lockedBuffer
	stop     context.CancelFunc
	ended    chan struct{}
	err      error
	revision int64

	stdout     io.Writer // where audit lines go without a file
	auditQueue int       // 0 for the usual length
	verified   func()    // runs in a handshake, right after the chain was found good
}

const secret = "sk-sample-0123456789abcdef"

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// option changes a rig before it starts.
type option func(*rig)

// withUpstream puts handler behind the proxy instead of the sample upstream.
func withUpstream(handler http.Handler) option {
	return func(r *rig) { r.upstream.Config.Handler = handler }
}

func withConfig(edit func(*Config)) option { return func(r *rig) { edit(&r.config) } }

// start runs a proxy for td.test with the routes llm (/v1) and echo (/echo).
func start(tb testing.TB, options ...option) *rig {
	tb.Helper()
	r := prepare(tb, options...)
	r.run()
	r.wl.set(tb, []tls.Certificate{r.ca.issue(tb, "/proxy")}, r.ca)
	r.eventually("the proxy to be ready", func() bool {
		return r.proxy.self.ready(context.Background()) == nil && r.proxy.policies.State().Loaded
	})
	return r
}

// prepare makes a rig that does not run.
func prepare(tb testing.TB, options ...option) *rig {
	tb.Helper()
	dir := tb.TempDir()
	r := &rig{tb: tb, ca: newAuthority(tb, "td.test"), wl: newWorkloadAPI(tb), clock: &clock{}, log: &lockedBuffer{}, stdout: io.Discard}
	r.upstream = httptest.NewUnstartedServer(sampleupstream.New(sampleupstream.Config{
		CredentialHeader: "Authorization", Credential: "Bearer " + secret,
	}))
	keyFile := filepath.Join(dir, "key")
	must(tb, os.WriteFile(keyFile, []byte(secret+"\n"), 0o600))
	r.config = Defaults()
	r.config.Listen, r.config.MetricsListen = "127.0.0.1:0", "127.0.0.1:0"
	r.config.WorkloadAPI = r.wl.addr
	r.config.AuditFile = filepath.Join(dir, "audit.log")
	r.config.DrainTimeout = time.Second
	r.config.Policies.File = filepath.Join(dir, "policies.json")
	r.config.Routes = []upstream.Route{
		{Service: "llm", PathPrefix: "/v1", LLM: true, MaxBodyBytes: 1 << 20,
			Credential: &credential.Config{Header: "Authorization", Prefix: "Bearer ", File: keyFile}},
		{Service: "echo", PathPrefix: "/echo"},
		{Service: "stream", PathPrefix: "/stream"},
	}
	for _, o := range options {
		o(r)
	}
	r.upstream.Start()
	tb.Cleanup(r.upstream.Close)
	for i := range r.config.Routes {
		if r.config.Routes[i].Upstream == "" {
			r.config.Routes[i].Upstream = r.upstream.URL
		}
	}
	r.writePolicies(samplePolicies()...)
	return r
}

func (r *rig) run() {
	r.tb.Helper()
	tel, err := telemetry.New("proxy", r.log, slog.LevelDebug)
	must(r.tb, err)
	r.proxy, err = New(r.config, Deps{Telemetry: tel, Now: r.clock.now, Stdout: r.stdout})
	must(r.tb, err)
	if r.auditQueue > 0 {
		r.proxy.trail.sized(r.auditQueue)
	}
	addrs, err := r.proxy.Listen()
	must(r.tb, err)
	if r.verified != nil {
		revoked := r.proxy.listener.revoked
		r.proxy.listener.revoked = func(id spiffeid.ID, serial string) bool { // the last question of a verification
			defer r.verified()
			return revoked(id, serial)
		}
	}
	r.addr, r.metrics = addrs.Proxy.String(), "http://"+addrs.Metrics.String()
	ctx, cancel := context.WithCancel(context.Background())
	r.stop, r.ended = cancel, make(chan struct{})
	go func() { defer close(r.ended); r.err = r.proxy.Run(ctx) }()
	r.tb.Cleanup(func() {
		cancel()
		<-r.ended
		_ = tel.Close(context.Background())
		if r.err != nil {
			r.tb.Errorf("Run: %v", r.err)
		}
		if r.tb.Failed() {
			r.tb.Logf("log:\n%s", r.log)
		}
	})
}

// as gives the rig for a subtest.
func (r *rig) as(tb testing.TB) *rig {
	sub := *r
	sub.tb = tb
	return &sub
}

func samplePolicies() []policy.Policy {
	return []policy.Policy{
		{Name: "sales", Effect: policy.Allow, Subjects: []string{"spiffe://td.test/sales-bot"}, Service: "llm",
			Methods: []string{"POST"}, Paths: []string{"/v1/**"}, Models: []string{"customer-service-llm"}},
		{Name: "finance", Effect: policy.Allow, Subjects: []string{"spiffe://td.test/finance-bot"}, Service: "llm",
			Methods: []string{"POST"}, Paths: []string{"/v1/**"}, Models: []string{"financial-analysis-llm"}},
		{Name: "models", Effect: policy.Allow, Subjects: []string{"spiffe://td.test/**"}, Service: "llm",
			Methods: []string{"GET"}, Paths: []string{"/v1/models"}},
		{Name: "echo", Effect: policy.Allow, Subjects: []string{"spiffe://td.test/**"}, Service: "echo",
			Methods: []string{"*"}, Paths: []string{"/echo/**"}},
		{Name: "stream", Effect: policy.Allow, Subjects: []string{"spiffe://td.test/**"}, Service: "stream",
			Methods: []string{"*"}, Paths: []string{"/stream/**"}},
	}
}

func (r *rig) writePolicies(list ...policy.Policy) int64 {
	r.tb.Helper()
	r.revision++
	raw, err := json.Marshal(policy.Set{Revision: r.revision, Policies: append([]policy.Policy{}, list...)})
	must(r.tb, err)
	temporary := r.config.Policies.File + ".new"
	must(r.tb, os.WriteFile(temporary, raw, 0o600))
	must(r.tb, os.Rename(temporary, r.config.Policies.File))
	return r.revision
}

// setPolicies waits until they are in force.
func (r *rig) setPolicies(list ...policy.Policy) {
	r.tb.Helper()
	revision := r.writePolicies(list...)
	r.eventually("the policies to be in force", func() bool {
		_, now := r.proxy.engine.Revision()
		return now == revision
	})
}

func (r *rig) eventually(what string, ok func() bool) {
	r.tb.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			r.tb.Fatalf("gave up waiting for %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// tlsClient is a client that shows cert and does not mind who the proxy is.
func tlsClient(certs ...tls.Certificate) *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, Certificates: certs}
}

// client makes an HTTP client of its own connections.
func (r *rig) client(http2 bool, certs ...tls.Certificate) *http.Client {
	transport := &http.Transport{TLSClientConfig: tlsClient(certs...), ForceAttemptHTTP2: http2, DisableCompression: true}
	r.tb.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// answer is what came back.
type got struct {
	status int
	header http.Header
	body   string
	proto  int
}

func (g got) reason() string {
	var p problem
	_ = json.Unmarshal([]byte(g.body), &p)
	return p.Reason
}

func (r *rig) do(client *http.Client, method, target, body string, header http.Header) (got, error) {
	req, err := http.NewRequest(method, "https://"+r.addr+target, strings.NewReader(body))
	must(r.tb, err)
	for name, values := range header {
		req.Header[name] = values
	}
	if body != "" && header["Content-Type"] == nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := client.Do(req)
	if err != nil {
		return got{}, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	return got{resp.StatusCode, resp.Header, string(raw), resp.ProtoMajor}, err
}

func (r *rig) mustDo(client *http.Client, method, target, body string, header http.Header) got {
	r.tb.Helper()
	g, err := r.do(client, method, target, body, header)
	must(r.tb, err)
	return g
}

// raw sends bytes on a connection of its own and reads the first answer.
func (r *rig) raw(cert tls.Certificate, text string) got {
	r.tb.Helper()
	config := tlsClient(cert)
	config.NextProtos = []string{"http/1.1"}
	conn, err := tls.Dial("tcp", r.addr, config)
	must(r.tb, err)
	defer conn.Close()
	must(r.tb, conn.SetDeadline(time.Now().Add(20*time.Second)))
	_, _ = io.WriteString(conn, text) // the answer may come before the end
	return readAnswer(r.tb, bufio.NewReader(conn))
}

func readAnswer(tb testing.TB, from *bufio.Reader) got {
	tb.Helper()
	resp, err := http.ReadResponse(from, nil)
	must(tb, err)
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	must(tb, err)
	return got{resp.StatusCode, resp.Header, string(raw), 1}
}

// records gives the audit lines so far.
func (r *rig) records() []record {
	r.tb.Helper()
	raw, err := os.ReadFile(r.config.AuditFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	must(r.tb, err)
	var list []record
	for line := range bytes.Lines(raw) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			break // it is being written
		}
		var rec record
		must(r.tb, json.Unmarshal(line, &rec))
		list = append(list, rec)
	}
	return list
}

// recordOf waits for the audit line of a request.
func (r *rig) recordOf(id string) record {
	r.tb.Helper()
	var found record
	r.eventually("the audit line of "+id, func() bool {
		for _, rec := range r.records() {
			if rec.RequestID == id {
				found = rec
				return true
			}
		}
		return false
	})
	return found
}

// scrape gives /metrics.
func (r *rig) scrape() string {
	r.tb.Helper()
	resp, err := http.Get(r.metrics + "/metrics")
	must(r.tb, err)
	defer http.DefaultClient.CloseIdleConnections()
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	must(r.tb, err)
	return string(raw)
}

// metric gives the sum of the series with these labels from /metrics.
func (r *rig) metric(name string, labels ...string) float64 {
	r.tb.Helper()
	total := 0.0
	for line := range strings.Lines(r.scrape()) {
		matches := strings.HasPrefix(line, name)
		for _, label := range labels {
			matches = matches && strings.Contains(line, label)
		}
		if matches {
			total += valueOf(line)
		}
	}
	return total
}

func valueOf(line string) float64 {
	line = strings.TrimSpace(line)
	value, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
	if err != nil {
		return 0
	}
	return value
}

const chatSales = `{"model":"customer-service-llm","messages":[{"role":"user","content":"hello"}]}`
