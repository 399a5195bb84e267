// Package servertest is the far side of an agent in tests: a small HTTPS server
// that speaks internal/wire over real TLS, whose time, failures and history the
// test controls. It authorizes nothing but agents.
package servertest

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/clock"
	"github.com/authsec-ai/icp/internal/csr"
	"github.com/authsec-ai/icp/internal/wire"
)

// Token is the join token that a Server takes, once.
const Token = "join-me"

// AgentID is the identity of the one agent that a Server knows.
const AgentID = "spiffe://" + TrustDomain + "/agent/node1"

// Server is the far side.
type Server struct {
	Addr  string
	Roots *x509.CertPool // of its TLS certificate

	tb        testing.TB
	clock     clock.Clock
	workloads *authority
	nodes     *authority
	tlsConfig *tls.Config

	mu       sync.Mutex
	running  *http.Server // nil while down
	served   chan struct{}
	settings Settings
	epoch    string
	revision int64
	entries  map[string]identity.Entry
	deleted  map[string]int64 // revision of the deletion
	changed  chan struct{}    // closed and replaced at each change
	used     bool             // the token
	banned   bool
	serial   string // of the agent's current SVID
	spki     [32]byte
	calls    map[string]int
	batches  []int // items per sign request
	answered map[string]wire.SignResult
	refuse   func(path string) error
}

// Settings of a Server; zero fields have defaults.
type Settings struct {
	TTL       time.Duration // of X.509-SVIDs, 1 h
	JWTTTL    time.Duration // 5 min
	AgentTTL  time.Duration // 1 h
	RenewAt   float64       // the tenant's; 0 for none
	Heartbeat time.Duration // wire.Heartbeat
}

// Start serves until the test ends.
func Start(tb testing.TB, c clock.Clock, settings Settings) *Server {
	tb.Helper()
	s := &Server{
		tb: tb, clock: c, workloads: newAuthority(tb, "workloads"), nodes: newAuthority(tb, "nodes"),
		settings: settings, epoch: "epoch-1", revision: 1, entries: map[string]identity.Entry{},
		deleted: map[string]int64{}, changed: make(chan struct{}), calls: map[string]int{},
		answered: map[string]wire.SignResult{}, Roots: x509.NewCertPool(),
	}
	s.settings.TTL = orDefault(settings.TTL, time.Hour)
	s.settings.JWTTTL = orDefault(settings.JWTTTL, 5*time.Minute)
	s.settings.AgentTTL = orDefault(settings.AgentTTL, time.Hour)
	s.settings.Heartbeat = orDefault(settings.Heartbeat, wire.Heartbeat)
	web := newAuthority(tb, "web")
	s.Roots.AddCert(web.anchor)
	s.tlsConfig = &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2", "http/1.1"},
		Certificates: []tls.Certificate{{Certificate: [][]byte{web.server().Raw}, PrivateKey: web.key}},
	}
	s.tlsConfig.GetConfigForClient = s.configFor
	s.Addr = "127.0.0.1:0"
	s.Up()
	tb.Cleanup(s.Down)
	return s
}

func orDefault(d, fallback time.Duration) time.Duration {
	if d == 0 {
		return fallback
	}
	return d
}

// configFor asks only those for a certificate who say that they have one.
func (s *Server) configFor(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	cfg := s.tlsConfig.Clone()
	if slices.Contains(hello.SupportedProtos, wire.ALPN) {
		cfg.ClientAuth = tls.RequireAnyClientCert
	}
	return cfg, nil
}

// URL gives the server's address.
func (s *Server) URL() string { return "https://" + s.Addr }

// Up has a server that is down listen again, at the same address.
func (s *Server) Up() {
	s.tb.Helper()
	l, err := net.Listen("tcp", s.Addr)
	if err != nil {
		s.tb.Fatalf("listen: %v", err)
	}
	server := &http.Server{Handler: s.routes(), TLSConfig: s.tlsConfig, ReadHeaderTimeout: 10 * time.Second, ErrorLog: nil}
	served := make(chan struct{})
	s.mu.Lock()
	s.Addr, s.running, s.served = l.Addr().String(), server, served
	s.mu.Unlock()
	go func() {
		defer close(served)
		if err := server.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
			s.tb.Errorf("serve: %v", err)
		}
	}()
}

// Down cuts every connection and listens no more.
func (s *Server) Down() {
	s.mu.Lock()
	server, served := s.running, s.served
	s.running = nil
	s.mu.Unlock()
	if server != nil {
		_ = server.Close() // nothing else can go wrong than what is wanted
		<-served
	}
}

// Put creates or changes entries, in one revision, and gives them back.
func (s *Server) Put(entries ...identity.Entry) []identity.Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revision++
	for i := range entries {
		entries[i].Revision, entries[i].Tenant = s.revision, "test"
		s.entries[entries[i].ID] = entries[i]
		delete(s.deleted, entries[i].ID)
	}
	s.notify()
	return entries
}

// Delete removes entries.
func (s *Server) Delete(ids ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revision++
	for _, id := range ids {
		delete(s.entries, id)
		s.deleted[id] = s.revision
	}
	s.notify()
}

// Rewrite gives the server another history, as a restore does.
func (s *Server) Rewrite(epoch string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.epoch = epoch
	s.notify()
}

// Ban bans the agent and ends its streams.
func (s *Server) Ban() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.banned = true
	s.notify()
}

// Refuse has requests fail; a nil function or error lets them pass.
func (s *Server) Refuse(f func(path string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = f
}

// SetTTL changes the lifetime of X.509-SVIDs.
func (s *Server) SetTTL(ttl time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settings.TTL = ttl
}

// RenewToken makes the join token good for once more.
func (s *Server) RenewToken() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used = false
}

// ForgetNode forgets the agent.
func (s *Server) ForgetNode() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serial, s.spki = "", [32]byte{}
	s.notify()
}

func (s *Server) notify() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Calls counts the requests to a path that were let in.
func (s *Server) Calls(path string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[path]
}

// Batches gives the number of items of each sign request so far.
func (s *Server) Batches() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.batches)
}

// Bundle gives what verifies the workloads' SVIDs.
func (s *Server) Bundle() *spiffebundle.Bundle { return s.workloads.bundle() }

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+wire.PathAttest, s.handle(s.attest))
	mux.HandleFunc("POST "+wire.PathRenew, s.handle(s.renew))
	mux.HandleFunc("POST "+wire.PathSign, s.handle(s.sign))
	mux.HandleFunc("POST "+wire.PathSignJWT, s.handle(s.signJWT))
	mux.HandleFunc("GET "+wire.PathSync, s.handle(s.sync))
	return mux
}

func (s *Server) handle(f func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		err := s.admit(r)
		if err == nil {
			s.count(r.URL.Path)
			err = f(w, r)
		}
		if err == nil {
			return
		}
		status := map[identity.Code]int{
			identity.Invalid: 400, identity.Unauthenticated: 401, identity.Denied: 403, identity.NotFound: 404,
			identity.Conflict: 409, identity.RateLimited: 429, identity.Unavailable: 503,
		}[identity.CodeOf(err)]
		if status == 0 {
			status = 500
		}
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]any{ // the client may have left
			"type": "about:blank", "status": status, "code": identity.CodeOf(err), "detail": identity.MessageOf(err),
		})
	}
}

func (s *Server) count(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[path]++
}

// admit lets in who shows the agent's current SVID.
func (s *Server) admit(r *http.Request) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse != nil {
		if err := s.refuse(r.URL.Path); err != nil {
			return err
		}
	}
	if r.URL.Path == wire.PathAttest {
		return nil
	}
	if len(r.TLS.PeerCertificates) == 0 {
		return identity.Errorf(identity.Unauthenticated, "no certificate")
	}
	leaf := r.TLS.PeerCertificates[0]
	switch {
	case leaf.CheckSignatureFrom(s.nodes.anchor) != nil:
		return identity.Errorf(identity.Unauthenticated, "not an agent's certificate")
	case sha256.Sum256(leaf.RawSubjectPublicKeyInfo) != s.spki:
		return identity.Errorf(identity.Unauthenticated, "not the agent's key")
	case s.banned:
		return identity.Errorf(identity.Denied, "agent is banned")
	case r.URL.Path != wire.PathRenew && s.clock.Now().After(leaf.NotAfter):
		return identity.Errorf(identity.Unauthenticated, "agent SVID has expired")
	case leaf.SerialNumber.Text(16) != s.serial && r.URL.Path != wire.PathRenew:
		return identity.Errorf(identity.Unauthenticated, "agent SVID was replaced")
	case leaf.SerialNumber.Text(16) != s.serial:
		return identity.Errorf(identity.Conflict, "two agents may hold this key")
	}
	return nil
}

func (s *Server) attest(w http.ResponseWriter, r *http.Request) error {
	var in wire.AttestRequest
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		return identity.Errorf(identity.Invalid, "%v", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if in.Method != "join_token" || in.Token != Token || s.used {
		return identity.Errorf(identity.Unauthenticated, "join token is not valid")
	}
	s.used = true
	return s.answer(w, in.CSR)
}

func (s *Server) renew(w http.ResponseWriter, r *http.Request) error {
	var in wire.RenewRequest
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		return identity.Errorf(identity.Invalid, "%v", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.answer(w, in.CSR)
}

func (s *Server) answer(w http.ResponseWriter, request []byte) error {
	key, _, err := csr.Parse(request)
	if err != nil {
		return err
	}
	leaf := s.nodes.leaf(spiffeid.RequireFromString(AgentID), key, s.clock.Now(), s.settings.AgentTTL)
	s.serial, s.spki = leaf.SerialNumber.Text(16), sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw}))
	return json.NewEncoder(w).Encode(wire.AttestResponse{
		AgentID: AgentID, SPIFFEID: AgentID, Tenant: "test", TrustDomain: TrustDomain,
		Certificate: text, SVID: text, TTL: int64(s.settings.AgentTTL.Seconds()), ExpiresAt: leaf.NotAfter,
	})
}

func (s *Server) sign(w http.ResponseWriter, r *http.Request) error {
	var in wire.SignRequest
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		return identity.Errorf(identity.Invalid, "%v", err)
	}
	s.mu.Lock()
	s.batches = append(s.batches, len(in.Items))
	out := wire.SignResponse{Results: make([]wire.SignResult, len(in.Items))}
	for i, item := range in.Items {
		out.Results[i] = s.signOne(item)
	}
	s.mu.Unlock()
	return json.NewEncoder(w).Encode(out)
}

func (s *Server) signOne(item wire.SignItem) wire.SignResult {
	e, ok := s.entries[item.EntryID]
	if !ok || e.Revision != item.EntryRevision || !item.Selectors.Contains(e.Selectors) || item.Evidence == "" {
		return wire.SignResult{Error: &wire.Problem{Code: identity.Denied, Message: "no such entry at this revision"}}
	}
	repeat := item.RequestID + fmt.Sprintf("%x", item.CSR)
	if earlier, ok := s.answered[repeat]; ok {
		return earlier
	}
	key, _, err := csr.Parse(item.CSR)
	if err != nil {
		return wire.SignResult{Error: wire.ProblemOf(err)}
	}
	ttl := s.settings.TTL
	if e.TTL != 0 {
		ttl = time.Duration(e.TTL)
	}
	leaf := s.workloads.leaf(e.SPIFFEID, key, s.clock.Now(), ttl)
	s.answered[repeat] = wire.SignResult{Chain: [][]byte{leaf.Raw}, ExpiresAt: leaf.NotAfter}
	return s.answered[repeat]
}

func (s *Server) signJWT(w http.ResponseWriter, r *http.Request) error {
	var in wire.SignJWTRequest
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		return identity.Errorf(identity.Invalid, "%v", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	out := wire.SignJWTResponse{Results: make([]wire.SignJWTResult, len(in.Items))}
	for i, item := range in.Items {
		e, ok := s.entries[item.EntryID]
		if !ok || e.Revision != item.EntryRevision || !item.Selectors.Contains(e.Selectors) {
			out.Results[i].Error = &wire.Problem{Code: identity.Denied, Message: "no such entry at this revision"}
			continue
		}
		now := s.clock.Now()
		token, err := s.workloads.token(e.SPIFFEID, item.Audience, now, s.settings.JWTTTL)
		if err != nil {
			return err
		}
		out.Results[i] = wire.SignJWTResult{Token: token, IssuedAt: now, ExpiresAt: now.Add(s.settings.JWTTTL)}
	}
	return json.NewEncoder(w).Encode(out)
}

// sync streams what the agent lacks, and everything after it.
func (s *Server) sync(w http.ResponseWriter, r *http.Request) error {
	epoch := r.URL.Query().Get("epoch")
	revision, err := strconv.ParseInt(r.URL.Query().Get("revision"), 10, 64)
	if err != nil {
		return identity.Errorf(identity.Invalid, "revision: %v", err)
	}
	rc := http.NewResponseController(w)
	for {
		frame, changed := s.frame(epoch, revision)
		if frame.Done {
			epoch, revision = frame.Epoch, frame.Revision
		}
		if json.NewEncoder(w).Encode(frame) != nil || rc.Flush() != nil {
			return nil // the agent has left
		}
		select {
		case <-r.Context().Done():
			return nil
		case <-time.After(s.settings.Heartbeat):
		case <-changed:
			if s.admit(r) != nil {
				return nil
			}
		}
	}
}

// frame gives what came after a cursor; nothing new is a heartbeat.
func (s *Server) frame(epoch string, revision int64) (wire.SyncFrame, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := wire.SyncFrame{Time: s.clock.Now()}
	reset := epoch != s.epoch || revision == 0 || revision > s.revision
	if !reset && revision == s.revision {
		return f, s.changed
	}
	f.Epoch, f.Revision, f.Reset, f.Done = s.epoch, s.revision, reset, true
	f.Settings = &wire.AgentSettings{RenewAt: s.settings.RenewAt}
	raw, err := s.workloads.bundle().Marshal()
	if err != nil {
		s.tb.Errorf("encode the bundle: %v", err)
	}
	f.Bundles = map[string]json.RawMessage{TrustDomain: raw}
	for _, e := range s.entries {
		if reset || e.Revision > revision {
			f.Upserts = append(f.Upserts, e)
		}
	}
	for id, at := range s.deleted {
		if !reset && at > revision {
			f.Deletes = append(f.Deletes, id)
		}
	}
	return f, s.changed
}
