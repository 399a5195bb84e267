package cache_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.opentelemetry.io/otel/metric/noop"
	"go.uber.org/goleak"

	"github.com/authsec-ai/icp/agent/cache"
	"github.com/authsec-ai/icp/agent/node"
	"github.com/authsec-ai/icp/agent/node/jointoken"
	"github.com/authsec-ai/icp/agent/servertest"
	"github.com/authsec-ai/icp/agent/upstream"
	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/clock"
	"github.com/authsec-ai/icp/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const limit = 20 * time.Second

// rig is a cache before a server that the test controls. Nothing but the cache
// sets timers on its clock, so they tell what it waits for.
type rig struct {
	*cache.Cache
	t      testing.TB
	clock  *clock.Manual
	start  time.Time
	server *servertest.Server
	log    *log
}

// log keeps what is logged.
type log struct {
	mu    sync.Mutex
	lines bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lines.Write(p)
}

func (l *log) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.lines.String(), text)
}

// late is a clock that differs from another.
type late struct {
	clock.Clock
	by time.Duration
}

func (l late) Now() time.Time { return l.Clock.Now().Add(-l.by) }

func newRig(t testing.TB, settings servertest.Settings) *rig {
	t.Helper()
	return newSkewedRig(t, settings, 0)
}

// newSkewedRig has the server's clock behind the agent's.
func newSkewedRig(t testing.TB, settings servertest.Settings, behind time.Duration) *rig {
	t.Helper()
	start := time.Now().Truncate(time.Second)
	c := clock.NewManual(start)
	settings.AgentTTL = 1000 * time.Hour
	r := &rig{t: t, clock: c, start: start, log: &log{}, server: servertest.Start(t, late{c, behind}, settings)}
	log := slog.New(slog.NewTextHandler(r.log, nil))
	id, err := node.Load(node.Config{
		Dir: t.TempDir(), Evidence: jointoken.Evidence{Token: servertest.Token}, Clock: c, Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	client, err := upstream.New(upstream.Config{URL: r.server.URL(), Roots: r.server.Roots, Certificate: id.Certificate})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	if err := id.Bootstrap(t.Context(), client); err != nil {
		t.Fatal(err)
	}
	r.Cache, err = cache.New(cache.Config{
		Signer: client, Clock: c, Log: log, Meter: noop.Meter{}, Jitter: func() float64 { return 0 },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = r.Run(ctx) }() // Run never fails
	t.Cleanup(func() { cancel(); <-done })
	return r
}

// entry makes one for uid whose age goes by its number: 1 is the oldest.
func entry(n int, uid string) identity.Entry {
	return identity.Entry{
		ID: fmt.Sprintf("entry-%04d", n), CreatedAt: time.Unix(int64(1000+n), 0).UTC(),
		Spec: identity.Spec{
			SPIFFEID:  spiffeid.RequireFromString(fmt.Sprintf("spiffe://%s/workload/%d", servertest.TrustDomain, n)),
			Selectors: identity.NewSelectors(identity.Selector{Type: "unix", Value: "uid:" + uid}),
		},
	}
}

func uid(n string) identity.Selectors {
	return identity.NewSelectors(identity.Selector{Type: "unix", Value: "uid:" + n}, identity.Selector{Type: "unix", Value: "gid:0"})
}

// put has server and cache know entries.
func (r *rig) put(entries ...identity.Entry) []identity.Entry {
	entries = r.server.Put(entries...)
	r.Apply(cache.Change{Upserts: entries, Bundles: r.bundles()})
	return entries
}

func (r *rig) bundles() map[spiffeid.TrustDomain]*spiffebundle.Bundle {
	b := r.server.Bundle()
	return map[spiffeid.TrustDomain]*spiffebundle.Bundle{b.TrustDomain(): b}
}

func (r *rig) subscribe(set identity.Selectors) *cache.Subscription {
	s := r.Subscribe(set, "evidence")
	r.t.Cleanup(s.Close)
	return s
}

func (r *rig) update(s *cache.Subscription) *cache.Update {
	r.t.Helper()
	u, err := s.Update(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	for _, id := range u.Identities {
		if err := consistent(id); err != nil {
			r.t.Fatal(err)
		}
		if !r.clock.Now().Before(id.SVID.Certificates[0].NotAfter) {
			r.t.Fatalf("an expired SVID was served: %s", id.SVID.ID)
		}
	}
	return u
}

// consistent checks that chain and key of an identity are one pair, in each of
// their forms.
func consistent(id cache.Identity) error {
	certs, err := x509.ParseCertificates(id.ChainDER)
	if err != nil {
		return err
	}
	key, err := x509.ParsePKCS8PrivateKey(id.KeyDER)
	if err != nil {
		return err
	}
	public := certs[0].PublicKey.(*ecdsa.PublicKey)
	if !key.(*ecdsa.PrivateKey).PublicKey.Equal(public) || !id.SVID.Certificates[0].Equal(certs[0]) ||
		!public.Equal(id.SVID.PrivateKey.Public()) {
		return fmt.Errorf("chain and key of %s do not match", id.SVID.ID)
	}
	return nil
}

func (r *rig) serialOf(s *cache.Subscription) string {
	r.t.Helper()
	return r.update(s).Identities[0].SVID.Certificates[0].SerialNumber.String()
}

// at waits until the cache has nothing to do before a time.
func (r *rig) at(want time.Duration) {
	r.t.Helper()
	stage.Eventually(r.t, limit, func() error {
		if next, ok := r.clock.Next(); !ok || !next.Equal(r.start.Add(want)) {
			return fmt.Errorf("the next timer is at %s (%t), not at %s", next.Sub(r.start), ok, want)
		}
		return nil
	})
}

// step moves the clock and waits until the cache has looked at what is due.
func (r *rig) step(d time.Duration) {
	r.t.Helper()
	r.clock.Advance(d)
	stage.Eventually(r.t, limit, func() error {
		if _, ok := r.clock.Next(); !ok {
			return fmt.Errorf("the cache is still busy at %s", r.clock.Now().Sub(r.start))
		}
		return nil
	})
}

// renewed waits until the first identity has another serial.
func (r *rig) renewed(s *cache.Subscription, old string) *cache.Update {
	r.t.Helper()
	stage.Eventually(r.t, limit, func() error {
		if r.serialOf(s) == old {
			return fmt.Errorf("the SVID has not been renewed at %s", r.clock.Now().Sub(r.start))
		}
		return nil
	})
	return r.update(s)
}

func wantCode(t testing.TB, err error, code identity.Code) {
	t.Helper()
	if identity.CodeOf(err) != code {
		t.Fatalf("got %v (code %q), want code %q", err, identity.CodeOf(err), code)
	}
}

func TestRenewalTime(t *testing.T) {
	cases := map[string]struct {
		tenant, entry float64
		at            time.Duration
	}{
		"AG-4/tenant": {tenant: 0.9, at: 54 * time.Minute},
		"AG-4/entry":  {tenant: 0.5, entry: 0.9, at: 54 * time.Minute},
		"AG-5":        {at: 39*time.Minute + 36*time.Second},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, servertest.Settings{TTL: time.Hour})
			e := entry(1, "1000")
			e.RenewAt = c.entry
			r.put(e)
			r.Apply(cache.Change{RenewAt: c.tenant})
			s := r.subscribe(uid("1000"))
			old := r.serialOf(s)
			r.at(time.Minute) // it looks once a minute whatever is due
			r.clock.Advance(c.at - time.Minute + time.Second)
			r.at(c.at)
			if r.serialOf(s) != old {
				t.Fatalf("renewed before T+%s", c.at)
			}
			r.clock.Advance(c.at - r.clock.Now().Sub(r.start))
			leaf := r.renewed(s, old).Identities[0].SVID.Certificates[0]
			if want := r.start.Add(c.at + time.Hour); !leaf.NotAfter.Equal(want) {
				t.Fatalf("the new SVID ends at T+%s, want T+%s", leaf.NotAfter.Sub(r.start), want.Sub(r.start))
			}
			select {
			case <-s.Changed():
			case <-time.After(limit):
				t.Fatal("the subscriber was not told")
			}
		})
	}
}

// AG-6: the server is down when renewal is due and comes back before the end.
func TestOutageAtRenewal(t *testing.T) {
	r := newRig(t, servertest.Settings{TTL: time.Hour})
	r.put(entry(1, "1000"))
	s := r.subscribe(uid("1000"))
	old := r.serialOf(s)
	r.server.Down()
	for r.clock.Now().Before(r.start.Add(55 * time.Minute)) {
		r.step(30 * time.Second)
		if r.serialOf(s) != old {
			t.Fatal("an SVID came from a server that is down")
		}
	}
	r.server.Up()
	for r.clock.Now().Before(r.start.Add(59*time.Minute)) && r.serialOf(s) == old {
		r.step(10 * time.Second)
	}
	if r.serialOf(s) == old {
		t.Fatal("the SVID was not renewed before its end, although the server was back")
	}
}

// An SVID that has expired is never served, and comes back with the server.
func TestOutageBeyondTheEnd(t *testing.T) {
	r := newRig(t, servertest.Settings{TTL: time.Hour})
	r.put(entry(1, "1000"))
	s := r.subscribe(uid("1000"))
	old := r.serialOf(s)
	r.server.Down()
	const alert = "about to expire"
	r.step(50 * time.Minute)
	if r.log.count(alert) != 0 {
		t.Fatal("alerted too early")
	}
	for range 9 { // TH-4: at 0.9 of the lifetime, once
		r.step(time.Minute)
	}
	if n := r.log.count(alert); n != 1 {
		t.Fatalf("TH-4: alerted %d times", n)
	}
	r.clock.Advance(time.Hour)
	_, err := s.Update(t.Context())
	wantCode(t, err, identity.Unavailable)
	r.server.Up()
	stage.Eventually(t, limit, func() error {
		r.clock.Advance(time.Second)
		_, err := s.Update(t.Context())
		return err
	})
	if r.serialOf(s) == old {
		t.Fatal("the expired SVID is served")
	}
}

// T-42: clocks differ. An agent that is behind serves and renews in time; one
// that is ahead by more than a lifetime has nothing valid, and does not hammer
// the server for it.
func TestSkew(t *testing.T) {
	t.Run("T-42/behind", func(t *testing.T) {
		r := newSkewedRig(t, servertest.Settings{TTL: time.Hour, RenewAt: 0.9}, -10*time.Minute)
		r.put(entry(1, "1000"))
		r.Apply(cache.Change{RenewAt: 0.9})
		s := r.subscribe(uid("1000"))
		old := r.serialOf(s)
		r.clock.Advance(55 * time.Minute) // by the server's clock five minutes are left
		r.renewed(s, old)
	})
	t.Run("T-42/ahead", func(t *testing.T) {
		r := newSkewedRig(t, servertest.Settings{TTL: time.Hour}, 2*time.Hour)
		r.put(entry(1, "1000"))
		s := r.subscribe(uid("1000"))
		for range 100 {
			_, err := s.Update(t.Context())
			wantCode(t, err, identity.Unavailable)
		}
		if n := len(r.server.Batches()); n != 1 {
			t.Fatalf("asked %d times without a pause", n)
		}
	})
}

// AG-10: readers see pairs only, while everything is replaced again and again.
func TestPairsUnderRotation(t *testing.T) {
	r := newRig(t, servertest.Settings{TTL: time.Hour})
	r.put(entry(1, "1000"))
	ctx, cancel := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	seen := make([]map[string]bool, 64)
	for i := range seen {
		s := r.subscribe(uid("1000"))
		readers.Go(func() {
			mine := map[string]bool{}
			for reads := 0; ctx.Err() == nil; reads++ {
				if reads%10 == 0 { // most reads are close to a replacement
					select {
					case <-s.Changed():
					case <-time.After(10 * time.Millisecond):
					}
				}
				u, err := s.Update(ctx)
				if err == nil {
					err = consistent(u.Identities[0])
				}
				if err != nil && ctx.Err() == nil {
					t.Error(err)
					return
				}
				if err == nil {
					mine[u.Identities[0].SVID.Certificates[0].SerialNumber.String()] = true
				}
			}
			seen[i] = mine
		})
	}
	s := r.subscribe(uid("1000"))
	for range 20 {
		old := r.serialOf(s)
		r.clock.Advance(40 * time.Minute)
		r.renewed(s, old)
	}
	cancel()
	readers.Wait()
	for i, mine := range seen {
		if len(mine) < 2 {
			t.Errorf("reader %d saw %d SVIDs in 20 rotations", i, len(mine))
		}
	}
}

func TestEntitlement(t *testing.T) {
	r := newRig(t, servertest.Settings{})
	s := r.subscribe(uid("1000"))

	t.Run("WLEP-14/before-the-first-sync", func(t *testing.T) {
		_, err := s.Update(t.Context())
		wantCode(t, err, identity.Unavailable)
		_, err = r.Bundles(uid("1000"))
		wantCode(t, err, identity.Unavailable)
		_, err = r.FetchJWT(t.Context(), uid("1000"), "evidence", spiffeid.ID{}, []string{"a"})
		wantCode(t, err, identity.Unavailable)
	})
	entries := r.put(entry(1, "1000"), entry(2, "1000"), entry(3, "2000"))

	t.Run("WLAPI-17/refused", func(t *testing.T) { // nothing matches
		_, err := r.subscribe(uid("3000")).Update(t.Context())
		wantCode(t, err, identity.Denied)
		_, err = r.Bundles(uid("3000"))
		wantCode(t, err, identity.Denied)
		_, err = r.FetchJWT(t.Context(), uid("3000"), "evidence", spiffeid.ID{}, []string{"a"})
		wantCode(t, err, identity.Denied)
	})
	both := identity.NewSelectors(identity.Selector{Type: "unix", Value: "uid:5000"}, identity.Selector{Type: "unix", Value: "path:/bin/web"})
	strict := entry(4, "5000")
	strict.Selectors = both
	r.put(strict)
	for _, one := range both {
		t.Run("WA-7/refused/"+one.Value, func(t *testing.T) { // one of two is not enough
			_, err := r.subscribe(identity.NewSelectors(one)).Update(t.Context())
			wantCode(t, err, identity.Denied)
		})
	}
	t.Run("WA-7/twin", func(t *testing.T) {
		if got := r.update(r.subscribe(both)).Identities; len(got) != 1 || got[0].EntryID != strict.ID {
			t.Fatalf("identities %v", got)
		}
	})
	t.Run("WA-8/refused", func(t *testing.T) { // a selector is compared whole
		_, err := r.subscribe(uid("10000")).Update(t.Context())
		wantCode(t, err, identity.Denied)
	})
	t.Run("WLAPI-27", func(t *testing.T) { // oldest first, whatever happens in between
		for i := range 20 {
			entries[1].Hint = fmt.Sprint("hint ", i)
			entries[1] = r.put(entries[1])[0]
			got := r.update(s).Identities
			if len(got) != 2 || got[0].EntryID != "entry-0001" || got[1].EntryID != "entry-0002" {
				t.Fatalf("identities %v", got)
			}
		}
	})
	t.Run("WLAPI-03", func(t *testing.T) { // one changes, all are in the answer
		before := r.update(s)
		entries[1].Hint = "other"
		entries[1] = r.put(entries[1])[0]
		after := r.update(s)
		if after.Identities[0].SVID != before.Identities[0].SVID {
			t.Fatal("an entry that did not change was issued anew")
		}
		if after.Identities[1].SVID.Hint != "other" || len(after.Bundles) != 1 {
			t.Fatalf("the answer is not the whole state: %+v", after)
		}
	})
	t.Run("RV-1", func(t *testing.T) { // deletion ends it
		drain(s)
		r.Apply(cache.Change{Deletes: []string{"entry-0001"}})
		<-s.Changed()
		if got := r.update(s).Identities; len(got) != 1 || got[0].EntryID != "entry-0002" {
			t.Fatalf("identities %v", got)
		}
		r.Apply(cache.Change{Reset: true})
		<-s.Changed()
		_, err := s.Update(t.Context())
		wantCode(t, err, identity.Denied)
	})
}

func drain(s *cache.Subscription) {
	select {
	case <-s.Changed():
	default:
	}
}

// An entry without selectors matches nobody.
func TestEntryWithoutSelectors(t *testing.T) {
	r := newRig(t, servertest.Settings{})
	e := entry(1, "1000")
	e.Selectors = nil
	r.Apply(cache.Change{Upserts: []identity.Entry{e}, Bundles: r.bundles()})
	_, err := r.subscribe(uid("1000")).Update(t.Context())
	wantCode(t, err, identity.Denied)
}

func TestBatches(t *testing.T) {
	r := newRig(t, servertest.Settings{})
	const n = 600
	var all []identity.Entry
	for i := range n {
		all = append(all, entry(i, fmt.Sprint(i)))
	}
	r.put(all...)
	if got := r.server.Batches(); len(got) != 0 { // WA-15: nothing before somebody asks
		t.Fatalf("signed before anybody asked: %v", got)
	}
	var group sync.WaitGroup
	for i := range n {
		s := r.subscribe(uid(fmt.Sprint(i)))
		group.Go(func() {
			if _, err := s.Update(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	sum := 0
	batches := r.server.Batches()
	for _, size := range batches {
		sum += size
	}
	if sum != n || slices.Max(batches) > wire.MaxBatch || len(batches) > n/4 {
		t.Fatalf("%d SVIDs in batches %v", sum, batches)
	}
}

// Workloads of one entry share its SVID, and one request.
func TestSharing(t *testing.T) {
	r := newRig(t, servertest.Settings{})
	r.put(entry(1, "1000"))
	var group sync.WaitGroup
	got := make([]*cache.Update, 50)
	for i := range got {
		s := r.subscribe(uid("1000"))
		group.Go(func() { got[i], _ = s.Update(t.Context()) })
	}
	group.Wait()
	for i, u := range got {
		if u == nil || u.Identities[0].SVID != got[0].Identities[0].SVID {
			t.Fatalf("workload %d has an SVID of its own", i)
		}
	}
	if batches := r.server.Batches(); !slices.Equal(batches, []int{1}) {
		t.Fatalf("batches %v", batches)
	}
}

// What is not the server's at this revision is left out; what the server can't
// sign now must not change the default.
func TestPartialAnswers(t *testing.T) {
	r := newRig(t, servertest.Settings{})
	entries := r.put(entry(1, "1000"), entry(2, "1000"))
	t.Run("refused-by-the-server", func(t *testing.T) {
		r.server.Delete("entry-0001") // the agent has not heard of it yet
		got := r.update(r.subscribe(uid("1000"))).Identities
		if len(got) != 1 || got[0].EntryID != "entry-0002" {
			t.Fatalf("identities %v", got)
		}
	})
	t.Run("default-unavailable", func(t *testing.T) {
		r.Apply(cache.Change{Deletes: []string{"entry-0001"}})
		r.server.Down()
		older := entry(0, "1000")
		older.Revision = 1000
		r.Apply(cache.Change{Upserts: []identity.Entry{older}})
		_, err := r.subscribe(uid("1000")).Update(t.Context())
		wantCode(t, err, identity.Unavailable)
	})
	t.Run("later-unavailable", func(t *testing.T) {
		younger := entry(9, "1000")
		younger.Revision = 1000
		r.Apply(cache.Change{Reset: true, Upserts: []identity.Entry{entries[1], younger}})
		got := r.update(r.subscribe(uid("1000"))).Identities
		if len(got) != 1 || got[0].EntryID != "entry-0002" {
			t.Fatalf("identities %v", got)
		}
	})
	t.Run("next-revision-unavailable", func(t *testing.T) { // the old SVID stands in
		next := entries[1]
		next.Revision, next.Hint = 1001, "new"
		r.Apply(cache.Change{Upserts: []identity.Entry{next}})
		got := r.update(r.subscribe(uid("1000"))).Identities
		if len(got) != 1 || got[0].SVID.ID != next.SPIFFEID {
			t.Fatalf("identities %v", got)
		}
	})
	t.Run("other-identity-unavailable", func(t *testing.T) { // it does not stand in for another name
		next := entries[1]
		next.Revision, next.SPIFFEID = 1002, spiffeid.RequireFromString("spiffe://test.example/renamed")
		r.Apply(cache.Change{Reset: true, Upserts: []identity.Entry{next}})
		_, err := r.subscribe(uid("1000")).Update(t.Context())
		wantCode(t, err, identity.Unavailable)
	})
}

// Nobody watches: the SVID is not renewed, and dropped.
func TestUnusedSVIDs(t *testing.T) {
	r := newRig(t, servertest.Settings{})
	r.put(entry(1, "1000"))
	s := r.Subscribe(uid("1000"), "evidence")
	r.update(s)
	s.Close()
	s.Close() // twice does no harm
	_, err := s.Update(t.Context())
	wantCode(t, err, identity.Internal)
	for range 60 {
		r.step(time.Minute)
	}
	if got := r.server.Batches(); len(got) != 1 {
		t.Fatalf("batches %v: renewed for nobody", got)
	}
	r.update(r.subscribe(uid("1000")))
	if got := r.server.Batches(); len(got) != 2 {
		t.Fatalf("batches %v: an unused SVID was kept", got)
	}
}

// A workload that only watches bundles has nothing issued.
func TestBundlesIssueNothing(t *testing.T) {
	r := newRig(t, servertest.Settings{})
	s := r.subscribe(uid("1000"))
	r.put(entry(1, "1000"))
	if b, err := s.Bundles(); err != nil || len(b) != 1 { // WLAPI-20: own trust domain
		t.Fatalf("%v, %v", b, err)
	}
	if got := r.server.Batches(); len(got) != 0 {
		t.Fatalf("batches %v", got)
	}
}

func TestAsks(t *testing.T) {
	r := newRig(t, servertest.Settings{})
	e := entry(1, "1000")
	e.Selectors = identity.NewSelectors(identity.Selector{Type: "unix", Value: "sha256:00"})
	r.put(e)
	if !r.Asks("unix:sha256") || r.Asks("unix:uid") {
		t.Fatal("wrong selectors are asked for")
	}
	r.Apply(cache.Change{Reset: true})
	if r.Asks("unix:sha256") {
		t.Fatal("a selector of a deleted entry is asked for")
	}
}

func TestFetchJWT(t *testing.T) {
	r := newRig(t, servertest.Settings{JWTTTL: 10 * time.Minute})
	entries := r.put(entry(1, "1000"), entry(2, "1000"), entry(3, "2000"))
	fetch := func(id spiffeid.ID, audience ...string) ([]cache.JWTSVID, error) {
		return r.FetchJWT(t.Context(), uid("1000"), "evidence", id, audience)
	}
	must := func(id spiffeid.ID, audience ...string) []cache.JWTSVID {
		t.Helper()
		got, err := fetch(id, audience...)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	all := must(spiffeid.ID{}, "a", "b")
	if len(all) != 2 || all[0].ID != entries[0].SPIFFEID || all[1].ID != entries[1].SPIFFEID {
		t.Fatalf("WLAPI-23: got %v", all)
	}
	t.Run("cached", func(t *testing.T) {
		if again := must(spiffeid.ID{}, "b", "a", "b"); !slices.Equal(again, all) {
			t.Fatal("order and repetition of the audience count")
		}
		if other := must(spiffeid.ID{}, "a"); other[0].Token == all[0].Token {
			t.Fatal("a token for another audience was given")
		}
	})
	t.Run("WLAPI-23/one", func(t *testing.T) {
		if got := must(entries[1].SPIFFEID, "a", "b"); len(got) != 1 || got[0] != all[1] {
			t.Fatalf("got %v", got)
		}
		_, err := fetch(entries[2].SPIFFEID, "a") // another workload's
		wantCode(t, err, identity.Denied)
	})
	t.Run("WLAPI-09", func(t *testing.T) {
		_, err := fetch(spiffeid.ID{})
		wantCode(t, err, identity.Invalid)
	})
	t.Run("half-life", func(t *testing.T) {
		r.clock.Advance(4 * time.Minute)
		if got := must(spiffeid.ID{}, "a", "b"); !slices.Equal(got, all) {
			t.Fatal("signed anew before half of the life")
		}
		r.clock.Advance(2 * time.Minute)
		r.server.Down()
		if got := must(spiffeid.ID{}, "a", "b"); !slices.Equal(got, all) {
			t.Fatal("the old token does not serve while the server is down")
		}
		r.server.Up()
		if got := must(spiffeid.ID{}, "a", "b"); got[0].Token == all[0].Token {
			t.Fatal("not signed anew past half of the life")
		}
	})
	t.Run("expired", func(t *testing.T) {
		r.server.Down()
		r.clock.Advance(time.Hour)
		_, err := fetch(spiffeid.ID{}, "a", "b")
		wantCode(t, err, identity.Unavailable)
		r.server.Up()
		must(spiffeid.ID{}, "a", "b")
	})
	t.Run("many-audiences", func(t *testing.T) { // memory stays bounded, answers right
		for i := range 200 {
			must(entries[0].SPIFFEID, fmt.Sprint("audience-", i))
		}
	})
	t.Run("parallel", func(t *testing.T) {
		before := r.server.Calls(wire.PathSignJWT)
		var group sync.WaitGroup
		for range 50 {
			group.Go(func() {
				if _, err := fetch(spiffeid.ID{}, "parallel"); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
		if n := r.server.Calls(wire.PathSignJWT) - before; n != 1 {
			t.Fatalf("signed %d times for one audience", n)
		}
	})
}

// A lost answer is asked for again as it was: the same request id and key.
func TestRepeatedRequest(t *testing.T) {
	r := newRig(t, servertest.Settings{})
	r.put(entry(1, "1000"))
	s := r.subscribe(uid("1000"))
	r.server.Refuse(func(path string) error {
		if path == wire.PathSign {
			return identity.Errorf(identity.Unavailable, "not now")
		}
		return nil
	})
	_, err := s.Update(t.Context())
	wantCode(t, err, identity.Unavailable)
	r.server.Refuse(nil)
	for range 5 {
		r.step(time.Second) // the renewal tries again by itself
	}
	select {
	case <-s.Changed():
	case <-time.After(limit):
		t.Fatal("the subscriber was not told that its SVID is there")
	}
	r.update(s)
}

func benchmarkRig(b *testing.B, entries int) (*rig, *cache.Subscription) {
	r := newRig(b, servertest.Settings{})
	var all []identity.Entry
	for i := range entries {
		all = append(all, entry(i, fmt.Sprint(i)))
	}
	r.put(all...)
	s := r.subscribe(uid("7"))
	r.update(s)
	return r, s
}

// A workload that comes while its SVID is there.
func BenchmarkSubscribeUpdateWarm(b *testing.B) {
	r, _ := benchmarkRig(b, 10_000)
	set := uid("7")
	b.ReportAllocs()
	for b.Loop() {
		s := r.Subscribe(set, "evidence")
		if _, err := s.Update(context.Background()); err != nil {
			b.Fatal(err)
		}
		s.Close()
	}
}

func BenchmarkUpdateWarm(b *testing.B) {
	_, s := benchmarkRig(b, 10_000)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Update(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
}

// What the server answers is checked before anybody gets it.
func TestAnswersAreChecked(t *testing.T) {
	other := servertest.Start(t, clock.System{}, servertest.Settings{}).Bundle()
	cases := map[string]func(*rig, *identity.Entry) map[spiffeid.TrustDomain]*spiffebundle.Bundle{
		"another-identity": func(r *rig, e *identity.Entry) map[spiffeid.TrustDomain]*spiffebundle.Bundle {
			e.SPIFFEID = spiffeid.RequireFromString("spiffe://test.example/somebody-else")
			return r.bundles()
		},
		"another-anchor": func(*rig, *identity.Entry) map[spiffeid.TrustDomain]*spiffebundle.Bundle {
			return map[spiffeid.TrustDomain]*spiffebundle.Bundle{other.TrustDomain(): other}
		},
		"no-bundle": func(*rig, *identity.Entry) map[spiffeid.TrustDomain]*spiffebundle.Bundle {
			return map[spiffeid.TrustDomain]*spiffebundle.Bundle{}
		},
	}
	for name, change := range cases {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, servertest.Settings{})
			e := r.server.Put(entry(1, "1000"))[0] // what the server has
			bundles := change(r, &e)
			r.Apply(cache.Change{Upserts: []identity.Entry{e}, Bundles: bundles})
			_, err := r.subscribe(uid("1000")).Update(t.Context())
			wantCode(t, err, identity.Unavailable)
			_, err = r.FetchJWT(t.Context(), uid("1000"), "evidence", spiffeid.ID{}, []string{"a"})
			wantCode(t, err, identity.Unavailable)
		})
	}
}
