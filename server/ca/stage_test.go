package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.opentelemetry.io/otel/metric/noop"
	"go.uber.org/goleak"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/audit"
	"github.com/authsec-ai/icp/internal/csr"
	"github.com/authsec-ai/icp/internal/wire"
	"github.com/authsec-ai/icp/server/keys"
	"github.com/authsec-ai/icp/server/keys/disk"
	"github.com/authsec-ai/icp/server/store"
	"github.com/authsec-ai/icp/server/store/sqlite"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is a time that tests move by hand.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2026, 3, 1, 12, 0, 0, 400_000_000, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// stage is a CA on a real SQLite store and a real custody on disk.
type stage struct {
	tb    testing.TB
	clock *clock
	db    store.Store
	keys  keys.Custody
	ca    *CA
}

func newStage(tb testing.TB) *stage {
	tb.Helper()
	dir := tb.TempDir()
	db, err := sqlite.Open(tb.Context(), filepath.Join(dir, "icp.db"), sqlite.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := db.Close(); err != nil {
			tb.Error(err)
		}
	})
	custody, err := disk.Open(filepath.Join(dir, "keys"))
	if err != nil {
		tb.Fatal(err)
	}
	s := &stage{tb: tb, clock: newClock(), db: db, keys: custody}
	s.ca = s.newCA(db, custody)
	return s
}

// newCA makes a CA on the stage's clock with nothing in memory, as after a
// restart or on another replica.
func (s *stage) newCA(db Store, custody keys.Custody) *CA {
	s.tb.Helper()
	ca, err := New(s.config(db, custody))
	if err != nil {
		s.tb.Fatal(err)
	}
	s.tb.Cleanup(ca.Close)
	return ca
}

func (s *stage) config(db Store, custody keys.Custody) Config {
	return Config{Store: db, Custody: custody, Now: s.clock.Now, Rand: rand.Reader,
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Meter: noop.NewMeterProvider().Meter("test")}
}

func (s *stage) event(tenant string) audit.Event {
	return audit.Event{Time: s.clock.Now(), Tenant: tenant, Actor: "test", Action: "test", Object: "test", Outcome: audit.Allowed}
}

// tenant makes a tenant whose trust domain is its id, and gives the ID of an
// attested agent in it.
func (s *stage) tenant(id string, settings ...store.Settings) (node string) {
	s.tb.Helper()
	t := store.Tenant{ID: id, CreatedAt: s.clock.Now()}
	for _, set := range settings {
		t.Settings = set
	}
	if err := s.ca.CreateTenant(s.tb.Context(), t, s.event(id)); err != nil {
		s.tb.Fatal(err)
	}
	return s.node(id, "n1")
}

func (s *stage) node(tenant, name string) string {
	s.tb.Helper()
	id := workloadID(s.tb, tenant, identity.AgentPath(name))
	svid, err := s.ca.SignAgent(s.tb.Context(), tenant, id, requestFor(s.tb, newKey(s.tb)))
	if err != nil {
		s.tb.Fatal(err)
	}
	n := identity.Node{ID: id, Tenant: tenant, Method: "test", SPKI: svid.SPKI, Serial: svid.Serial,
		CreatedAt: s.clock.Now(), ExpiresAt: s.clock.Now().Add(365 * 24 * time.Hour)}
	if err := s.db.AttestNode(s.tb.Context(), n, nil, s.clock.Now(), s.event(tenant)); err != nil {
		s.tb.Fatal(err)
	}
	return id.String()
}

// entry makes an entry for path below node; change may alter the Spec first.
func (s *stage) entry(tenant, node, path string, change ...func(*identity.Spec)) identity.Entry {
	s.tb.Helper()
	parent, err := identity.ParseID(node)
	if err != nil {
		s.tb.Fatal(err)
	}
	e := identity.Entry{ID: "e" + rand.Text(), Tenant: tenant, CreatedAt: s.clock.Now(), Spec: identity.Spec{
		SPIFFEID: workloadID(s.tb, tenant, path), ParentID: parent, Selectors: selectors("unix:uid:1000")}}
	for _, f := range change {
		f(&e.Spec)
	}
	e, err = s.db.CreateEntry(s.tb.Context(), e, s.event(tenant))
	if err != nil {
		s.tb.Fatal(err)
	}
	return e
}

func (s *stage) sign(tenant, node string, items ...wire.SignItem) []wire.SignResult {
	s.tb.Helper()
	results := s.ca.SignWorkloads(s.tb.Context(), tenant, node, items)
	if len(results) != len(items) {
		s.tb.Fatalf("%d results for %d items", len(results), len(items))
	}
	return results
}

// issued signs one item that must succeed and gives the certificate.
func (s *stage) issued(tenant, node string, item wire.SignItem) *x509.Certificate {
	s.tb.Helper()
	result := s.sign(tenant, node, item)[0]
	if result.Error != nil {
		s.tb.Fatalf("not signed: %s: %s", result.Error.Code, result.Error.Message)
	}
	return parseCert(s.tb, result.Chain[0])
}

func (s *stage) signJWT(tenant, node string, item wire.SignJWTItem) wire.SignJWTResult {
	s.tb.Helper()
	return s.ca.SignJWTs(s.tb.Context(), tenant, node, []wire.SignJWTItem{item})[0]
}

func (s *stage) count(tenant string) int64 {
	s.tb.Helper()
	n, err := s.db.IssuanceCount(s.tb.Context(), tenant)
	if err != nil {
		s.tb.Fatal(err)
	}
	return n
}

func (s *stage) authority(tenant string, p store.Purpose) store.Authority {
	s.tb.Helper()
	rows, err := s.db.Authorities(s.tb.Context(), tenant)
	if err != nil {
		s.tb.Fatal(err)
	}
	for _, row := range rows {
		if row.Purpose == p {
			return row
		}
	}
	s.tb.Fatalf("tenant %q has no %s", tenant, p)
	return store.Authority{}
}

func wantProblem(tb testing.TB, p *wire.Problem, code identity.Code, contains string) {
	tb.Helper()
	if p == nil || p.Code != code || !strings.Contains(p.Message, contains) {
		tb.Fatalf("problem is %+v; want code %q and %q", p, code, contains)
	}
}

func workloadID(tb testing.TB, domain, path string) spiffeid.ID {
	tb.Helper()
	id, err := identity.ParseWorkloadID("spiffe://" + domain + path)
	if err != nil {
		tb.Fatal(err)
	}
	return id
}

func selectors(list ...string) identity.Selectors {
	var set []identity.Selector
	for _, text := range list {
		sel, err := identity.ParseSelector(text)
		if err != nil {
			panic(fmt.Sprintf("a test has a bad selector: %v", err))
		}
		set = append(set, sel)
	}
	return identity.NewSelectors(set...)
}

func newKey(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

func requestFor(tb testing.TB, key crypto.Signer) []byte {
	tb.Helper()
	der, err := csr.New(key)
	if err != nil {
		tb.Fatal(err)
	}
	return der
}

// itemFor asks for e with a new key, as the agent would.
func itemFor(tb testing.TB, e identity.Entry) wire.SignItem {
	tb.Helper()
	return wire.SignItem{RequestID: "r" + rand.Text(), EntryID: e.ID, EntryRevision: e.Revision,
		Selectors: e.Selectors, Evidence: "test", CSR: requestFor(tb, newKey(tb))}
}

func jwtItemFor(e identity.Entry, audience ...string) wire.SignJWTItem {
	return wire.SignJWTItem{RequestID: "r" + rand.Text(), EntryID: e.ID, EntryRevision: e.Revision,
		Selectors: e.Selectors, Evidence: "test", Audience: audience}
}

func parseCert(tb testing.TB, der []byte) *x509.Certificate {
	tb.Helper()
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return cert
}
