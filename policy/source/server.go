package source

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/wire"
	"github.com/authsec-ai/icp/policy"
)

// ServerConfig configures a Server.
type ServerConfig struct {
	URL       string            // of the control plane, "https://host:port"; required
	Transport http.RoundTripper // shows the gateway's SVID; see Transport; required
	CacheFile string            // keeps the last set across restarts; "" for none
	Lease     time.Duration     // how long a set counts without contact; 0 means 60 s
	Log       *slog.Logger      // required

	Silence  time.Duration  // without a frame, reconnect; 0 means wire.Silence
	RetryMin time.Duration  // first pause before reconnecting; 0 means 250 ms
	RetryMax time.Duration  // longest pause; 0 means 10 s
	Jitter   func() float64 // 0…1, spreads the pauses; nil means random
}

// Server follows the policies and revocations that the control plane streams to
// this gateway.
//
// The set counts for one lease after the last sign of life. Then everything is
// denied until the server sends its set again. With a CacheFile the same holds
// across a restart: what is cached counts until the lease that it was saved
// under ends, and after that still serves to refuse older sets.
type Server struct {
	status
	cfg ServerConfig

	applying sync.Mutex // held while the sink is called
	kept     snapshot   // what was applied last
	saved    time.Time  // Contact in the cache file
}

// Transport gives an HTTP/2 transport for ServerConfig that offers what the
// server wants from clients with a certificate. config decides whom to trust
// and gives the certificate (GetClientCertificate follows rotation: each
// connection asks anew).
func Transport(config *tls.Config) *http.Transport {
	config = config.Clone()
	config.NextProtos = []string{"h2", wire.ALPN}
	return &http.Transport{
		TLSClientConfig:     config,
		ForceAttemptHTTP2:   true,
		Proxy:               http.ProxyFromEnvironment,
		TLSHandshakeTimeout: 10 * time.Second,
	}
}

// NewServer checks cfg.
func NewServer(cfg ServerConfig) (*Server, error) {
	u, err := url.Parse(cfg.URL)
	switch {
	case err != nil || u.Scheme != "https" || u.Host == "":
		return nil, fmt.Errorf("policy server: %q is not a URL such as https://icp.example.org:8443", cfg.URL)
	case cfg.Transport == nil || cfg.Log == nil:
		return nil, errors.New("policy server: transport and log are required")
	case cfg.Lease < 0 || cfg.Silence < 0 || cfg.RetryMin < 0 || cfg.RetryMax < 0:
		return nil, errors.New("policy server: times are not negative")
	}
	cfg.URL = strings.TrimSuffix(cfg.URL, "/")
	cfg.setDefaults()
	return &Server{status: status{log: cfg.Log.With("server", cfg.URL)}, cfg: cfg, kept: snapshot{URL: cfg.URL}}, nil
}

func (c *ServerConfig) setDefaults() {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&c.Lease, 60 * time.Second}, {&c.Silence, wire.Silence},
		{&c.RetryMin, 250 * time.Millisecond}, {&c.RetryMax, 10 * time.Second},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if c.Jitter == nil {
		c.Jitter = rand.Float64
	}
}

// Run delivers what is cached, then follows the server until ctx ends; it then
// returns nil. Call it once.
func (s *Server) Run(ctx context.Context, sink Sink) error {
	s.restore(sink)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { s.watchLease(ctx, sink); return nil })
	g.Go(func() error { s.follow(ctx, sink); return nil })
	return g.Wait()
}

// restore applies the cached snapshot, and denies at once if its lease is over.
func (s *Server) restore(sink Sink) {
	if s.cfg.CacheFile == "" {
		return
	}
	cached, err := loadSnapshot(s.cfg.CacheFile)
	if err != nil {
		s.fail("the policy cache was not read", err)
		return
	}
	if cached == nil || cached.URL != s.cfg.URL {
		return
	}
	if err := s.restoreSnapshot(sink, cached); err != nil {
		s.fail("the cached policies were not taken", err)
	}
}

func (s *Server) restoreSnapshot(sink Sink, cached *snapshot) error {
	set, err := cached.set()
	if err != nil {
		return err
	}
	s.applying.Lock()
	defer s.applying.Unlock()
	if err := sink.ApplyRevocations(cached.Revocations); err != nil {
		return err
	}
	contact := cached.Contact
	if contact.After(time.Now()) { // the clock went back: the age is not known
		contact = time.Time{}
	}
	if time.Since(contact) >= s.cfg.Lease { // not for a moment in force; its revision still counts
		set.Policies = []policy.Policy{}
	}
	if err := s.apply(sink, set, contact); err != nil {
		return err
	}
	s.kept, s.saved = *cached, cached.Contact
	s.update(func(st *State) { st.Stale = true })
	s.expireIfDue(sink)
	return nil
}

// watchLease denies everything whenever the lease runs out.
func (s *Server) watchLease(ctx context.Context, sink Sink) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		s.applying.Lock()
		s.expireIfDue(sink)
		s.applying.Unlock()
		timer.Reset(max(s.leaseLeft(), 10*time.Millisecond))
	}
}

// leaseLeft gives how long the lease runs at least from now.
func (s *Server) leaseLeft() time.Duration {
	state := s.State()
	if !state.Loaded || state.Expired {
		return s.cfg.Lease
	}
	return max(0, s.cfg.Lease-time.Since(state.Contact))
}

// expireIfDue needs s.applying.
func (s *Server) expireIfDue(sink Sink) {
	if state := s.State(); !state.Loaded || state.Expired || s.leaseLeft() > 0 {
		return
	}
	if expirer, ok := sink.(Expirer); ok {
		expirer.ExpirePolicies()
	} else if err := s.applyEmpty(sink); err != nil {
		s.fail("the sink does not let go of policies that are out of date", err)
		return
	}
	s.update(func(st *State) { st.Expired = true })
	s.log.Error("everything is denied: the server has been out of reach for a whole lease", "lease", s.cfg.Lease)
}

func (s *Server) applyEmpty(sink Sink) error {
	state := s.State()
	return sink.ApplyPolicies(policy.Set{Epoch: state.Epoch, Revision: state.Revision, Policies: []policy.Policy{}})
}

// follow reads one stream after the other, with growing pauses while they fail.
func (s *Server) follow(ctx context.Context, sink Sink) {
	pause := s.cfg.RetryMin
	for ctx.Err() == nil {
		frames, err := s.stream(ctx, sink)
		if ctx.Err() != nil {
			return
		}
		s.closeIdle()
		s.fail("the policy stream ended", err)
		if frames > 0 {
			pause = s.cfg.RetryMin
		}
		if !sleep(ctx, time.Duration(float64(pause)*(0.5+s.cfg.Jitter()/2))) {
			return
		}
		pause = min(2*pause, s.cfg.RetryMax)
	}
}

// sleep reports whether ctx outlived the pause.
func sleep(ctx context.Context, pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// closeIdle makes the next stream open a connection of its own: the one before
// may be dead without knowing.
func (s *Server) closeIdle() {
	if t, ok := s.cfg.Transport.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

// stream reads frames until the stream ends or falls silent, and gives how many
// there were. The error is never nil.
func (s *Server) stream(ctx context.Context, sink Sink) (frames int, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(s.cfg.Silence, func() { cancel(fmt.Errorf("nothing came for %s", s.cfg.Silence)) })
	defer silence.Stop()

	body, err := s.open(ctx)
	if err != nil {
		return 0, firstCause(ctx, err)
	}
	defer body.Close()
	lines := bufio.NewScanner(body)
	lines.Buffer(make([]byte, 0, 64<<10), maxSetBytes)
	for lines.Scan() {
		silence.Reset(s.cfg.Silence)
		if err := s.take(lines.Bytes(), sink); err != nil {
			return frames, err
		}
		frames++
	}
	if err := lines.Err(); err != nil {
		return frames, firstCause(ctx, err)
	}
	return frames, errors.New("the server closed it")
}

// firstCause tells why ctx was cancelled rather than that it was.
func firstCause(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

func (s *Server) open(ctx context.Context) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.cfg.URL+wire.PathGateway, nil)
	if err != nil {
		return nil, err
	}
	res, err := s.cfg.Transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		defer res.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(res.Body, 1024)) // what came is enough
		return nil, fmt.Errorf("the server answers %s%s: %s", res.Status, remedy(res.StatusCode), bytes.TrimSpace(text))
	}
	return res.Body, nil
}

func remedy(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return " (it does not accept this gateway's SVID)"
	case http.StatusForbidden:
		return " (the gateway's entry needs a grant: list the services under gateway)"
	}
	return ""
}

// frame is a wire.PolicyFrame whose set is left for policy.ParseSet, which is
// stricter than this wire is.
type frame struct {
	Policies    json.RawMessage        `json:"policies"`
	Revocations *[]identity.Revocation `json:"revocations"`
}

// take applies one frame, revocations first so that a set never meets older
// ones. A set that is refused does not end the stream: the one before stays.
// After the lease ran out only a set brings access back, so a frame without one
// ends the stream: the next begins with the set.
func (s *Server) take(line []byte, sink Sink) error {
	var f frame
	if err := json.Unmarshal(line, &f); err != nil {
		return fmt.Errorf("a frame is not valid JSON: %w", err)
	}
	s.applying.Lock()
	defer s.applying.Unlock()
	now, news := time.Now(), false
	if f.Revocations != nil {
		list := stillRevoked(*f.Revocations, s.kept.Revocations, now)
		if err := sink.ApplyRevocations(list); err != nil {
			return fmt.Errorf("apply the revocations: %w", err)
		}
		s.kept.Revocations, news = list, true
	}
	if f.Policies != nil && !bytes.Equal(f.Policies, []byte("null")) {
		if err := s.takeSet(f.Policies, sink, now); err != nil {
			s.fail("the server's policies were not taken", err)
		} else {
			news = true
		}
	}
	s.contact(now, news)
	if s.State().Expired {
		return errors.New("the lease ran out between two frames; asking for the set again")
	}
	return nil
}

// stillRevoked gives what newly is revoked, and of known what has not expired.
// A server takes no revocation back before its SVID has expired, so a list that
// lacks one is older than what we know: of a replica that lags, or restored.
func stillRevoked(newly, known []identity.Revocation, now time.Time) []identity.Revocation {
	type key struct{ kind, id, serial string }
	list := slices.Clone(newly)
	listed := make(map[key]bool, len(newly))
	for _, r := range newly {
		listed[key{string(r.Kind), r.SPIFFEID, r.Serial}] = true
	}
	for _, r := range known {
		if now.Before(r.ExpiresAt) && !listed[key{string(r.Kind), r.SPIFFEID, r.Serial}] {
			list = append(list, r)
		}
	}
	return list
}

func (s *Server) takeSet(raw []byte, sink Sink, now time.Time) error {
	set, err := parseComplete(raw)
	if err != nil {
		return err
	}
	if err := s.apply(sink, set, now); err != nil {
		return err
	}
	s.kept.Policies = raw
	return nil
}

// contact extends the lease, and keeps the cache file young enough to show it.
func (s *Server) contact(now time.Time, news bool) {
	s.update(func(st *State) { st.Contact, st.Stale = now, false })
	s.kept.Contact = now
	if s.cfg.CacheFile == "" || s.kept.Policies == nil || (!news && now.Sub(s.saved) < s.cfg.Lease/4) {
		return
	}
	if err := s.kept.save(s.cfg.CacheFile); err != nil {
		s.fail("the policy cache was not written", err)
		return
	}
	s.saved = now
}
