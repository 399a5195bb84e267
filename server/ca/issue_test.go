package ca

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/audit"
	"github.com/authsec-ai/icp/internal/wire"
	"github.com/authsec-ai/icp/server/keys"
	"github.com/authsec-ai/icp/server/store"
)

const tenantA = "a.example"

func TestNewRefuses(t *testing.T) {
	s := newStage(t)
	for name, change := range map[string]func(*Config){
		"store": func(c *Config) { c.Store = nil }, "custody": func(c *Config) { c.Custody = nil },
		"clock": func(c *Config) { c.Now = nil }, "randomness": func(c *Config) { c.Rand = nil },
		"log": func(c *Config) { c.Log = nil }, "meter": func(c *Config) { c.Meter = nil },
	} {
		cfg := s.config(s.db, s.keys)
		change(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("New accepts a Config without %s", name)
		}
	}
}

// TestBatch judges each item on its own, wherever the bad one stands.
func TestBatch(t *testing.T) {
	const size = 8
	s := newStage(t)
	node := s.tenant(tenantA)
	other := s.node(tenantA, "n2")
	entries := make([]identity.Entry, size)
	for i := range entries {
		entries[i] = s.entry(tenantA, node, fmt.Sprintf("/w%d", i))
	}
	foreign := s.entry(tenantA, other, "/foreign")
	s.tenant("b.example")
	elsewhere := s.entry("b.example", workloadID(t, "b.example", "/agent/n1").String(), "/w")

	defects := map[string]struct {
		change func(*wire.SignItem)
		code   identity.Code
		reason string
	}{
		"T-05/refused/another agent's entry":  {func(i *wire.SignItem) { i.EntryID, i.EntryRevision = foreign.ID, foreign.Revision }, identity.Denied, "no entry"},
		"T-05/refused/another tenant's entry": {func(i *wire.SignItem) { i.EntryID, i.EntryRevision = elsewhere.ID, elsewhere.Revision }, identity.Denied, "no entry"},
		"T-05/refused/no such entry":          {func(i *wire.SignItem) { i.EntryID = "nothing" }, identity.Denied, "no entry"},
		"old revision":                        {func(i *wire.SignItem) { i.EntryRevision-- }, identity.Denied, "revision"},
		"selectors that do not match":         {func(i *wire.SignItem) { i.Selectors = selectors("unix:uid:1001", "unix:gid:1000") }, identity.Denied, "selectors"},
		"long request id":                     {func(i *wire.SignItem) { i.RequestID = strings.Repeat("r", maxName+1) }, identity.Invalid, "request_id has 129 bytes"},
		"long evidence":                       {func(i *wire.SignItem) { i.Evidence = strings.Repeat("e", maxName+1) }, identity.Invalid, "evidence has 129 bytes"},
		"NUL in the entry's id":               {func(i *wire.SignItem) { i.EntryID += "\x00" }, identity.Invalid, "entry_id has"},
		"no selectors":                        {func(i *wire.SignItem) { i.Selectors = nil }, identity.Denied, "selectors"},
		"T-08/refused/request is garbage":     {func(i *wire.SignItem) { i.CSR = []byte("garbage") }, identity.Invalid, "PKCS #10"},
	}
	for name, d := range defects {
		t.Run(name, func(t *testing.T) {
			for bad := range size { // T-06
				items := make([]wire.SignItem, size)
				for i := range items {
					items[i] = itemFor(t, entries[i])
				}
				d.change(&items[bad])
				before := s.count(tenantA)
				for i, r := range s.sign(tenantA, node, items...) {
					if i == bad {
						wantProblem(t, r.Error, d.code, d.reason)
						if r.Chain != nil {
							t.Fatal("a refused item has a certificate")
						}
						continue
					}
					if r.Error != nil {
						t.Fatalf("T-05/twin: item %d beside bad item %d: %s", i, bad, r.Error.Message)
					}
					if got := parseCert(t, r.Chain[0]).URIs[0].String(); got != entries[i].SPIFFEID.String() {
						t.Fatalf("T-06: item %d got %s", i, got)
					}
				}
				if got := s.count(tenantA) - before; got != size-1 {
					t.Fatalf("AU-1: %d on record, %d released", got, size-1)
				}
			}
		})
	}
	t.Run("more selectors than the entry has", func(t *testing.T) {
		item := itemFor(t, entries[0])
		item.Selectors = selectors("unix:uid:1000", "unix:gid:1000")
		s.issued(tenantA, node, item)
	})
}

func TestBatchSize(t *testing.T) {
	s := newStage(t)
	node := s.tenant(tenantA)
	e := s.entry(tenantA, node, "/w")
	items := make([]wire.SignItem, wire.MaxBatch+1)
	for i := range items {
		items[i] = wire.SignItem{RequestID: fmt.Sprint(i), EntryID: e.ID, EntryRevision: e.Revision, Selectors: e.Selectors}
	}
	csr := requestFor(t, newKey(t))
	for i := range items {
		items[i].CSR = csr
	}
	for _, r := range s.sign(tenantA, node, items...) {
		wantProblem(t, r.Error, identity.TooLarge, "the limit is 500")
	}
	for i, r := range s.sign(tenantA, node, items[:wire.MaxBatch]...) {
		if r.Error != nil {
			t.Fatalf("item %d of a batch of the greatest size: %s", i, r.Error.Message)
		}
	}
	if got := s.sign(tenantA, node); len(got) != 0 {
		t.Errorf("an empty batch has %d results", len(got))
	}
}

func TestRequestIsNotATemplate(t *testing.T) {
	s := newStage(t)
	node := s.tenant(tenantA)
	item := itemFor(t, s.entry(tenantA, node, "/w"))
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "postgres", Organization: []string{"root"}}, DNSNames: []string{"admin"},
		IPAddresses: []net.IP{{127, 0, 0, 1}}, EmailAddresses: []string{"a@b"},
		URIs:            []*url.URL{{Scheme: "spiffe", Host: tenantA, Path: "/admin"}, {Scheme: "https", Host: "x"}},
		ExtraExtensions: []pkix.Extension{{Id: []int{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xff}}},
	}, newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	item.CSR = der
	cert := s.issued(tenantA, node, item)
	t.Run("T-07/twin", func(t *testing.T) {
		if len(cert.DNSNames)+len(cert.IPAddresses)+len(cert.EmailAddresses) != 0 || len(cert.URIs) != 1 || cert.URIs[0].Path != "/w" || cert.IsCA {
			t.Errorf("the request got something in: %+v", cert)
		}
	})
	t.Run("T-54/twin", func(t *testing.T) {
		if cert.Subject.String() != "CN=spiffe://a.example/w" {
			t.Errorf("subject is %s", cert.Subject)
		}
	})
}

func TestKeys(t *testing.T) {
	s := newStage(t)
	node := s.tenant(tenantA)
	a, b := s.entry(tenantA, node, "/a"), s.entry(tenantA, node, "/b")
	t.Run("T-08/refused/one key for two entries", func(t *testing.T) {
		first, second := itemFor(t, a), itemFor(t, b)
		second.CSR = first.CSR
		got := s.sign(tenantA, node, first, second)
		if got[0].Error != nil {
			t.Errorf("the first: %s", got[0].Error.Message)
		}
		wantProblem(t, got[1].Error, identity.Invalid, "two entries")
	})
	for _, p := range []store.Purpose{store.WorkloadAnchor, store.WorkloadIssuer, store.NodeAnchor, store.NodeIssuer, store.JWTKey} {
		t.Run("T-08/refused/the key of the "+string(p), func(t *testing.T) {
			key, err := s.ca.unwrap(t.Context(), s.authority(tenantA, p))
			if err != nil {
				t.Fatal(err)
			}
			item := itemFor(t, a)
			item.CSR = requestFor(t, key)
			wantProblem(t, s.sign(tenantA, node, item)[0].Error, identity.Invalid, "certificate authority")
			_, err = s.ca.SignAgent(t.Context(), tenantA, workloadID(t, tenantA, "/agent/x"), item.CSR)
			if identity.CodeOf(err) != identity.Invalid {
				t.Errorf("as an agent's key: %v", err)
			}
		})
	}
	t.Run("T-08/twin", func(t *testing.T) { s.issued(tenantA, node, itemFor(t, a)) })
}

// alteredStore answers with what a test puts in the place of the store's answer.
type alteredStore struct {
	store.Store
	entries     func([]identity.Entry) []identity.Entry
	authorities func([]store.Authority) []store.Authority
	recorded    func()           // runs after intents are recorded, before they are signed
	fail        map[string]error // by method
	writes      int              // of events
}

func (s *alteredStore) Tenant(ctx context.Context, id string) (store.Tenant, error) {
	if err := s.fail["Tenant"]; err != nil {
		return store.Tenant{}, err
	}
	return s.Store.Tenant(ctx, id)
}

func (s *alteredStore) EntriesByID(ctx context.Context, tenant string, ids []string) ([]identity.Entry, error) {
	if err := s.fail["EntriesByID"]; err != nil {
		return nil, err
	}
	list, err := s.Store.EntriesByID(ctx, tenant, ids)
	if s.entries != nil {
		list = s.entries(list)
	}
	return list, err
}

func (s *alteredStore) Authorities(ctx context.Context, tenant string) ([]store.Authority, error) {
	if err := s.fail["Authorities"]; err != nil {
		return nil, err
	}
	list, err := s.Store.Authorities(ctx, tenant)
	if s.authorities != nil {
		list = s.authorities(list)
	}
	return list, err
}

func (s *alteredStore) PutAuthority(ctx context.Context, a store.Authority, ev audit.Event) error {
	if err := s.fail["PutAuthority"]; err != nil {
		return err
	}
	return s.Store.PutAuthority(ctx, a, ev)
}

func (s *alteredStore) RecordIntents(ctx context.Context, tenant, node string, now time.Time, items []store.Intent) ([]store.Intent, []error, error) {
	if err := s.fail["RecordIntents"]; err != nil {
		return nil, nil, err
	}
	intents, errs, err := s.Store.RecordIntents(ctx, tenant, node, now, items)
	if s.recorded != nil {
		s.recorded()
	}
	return intents, errs, err
}

func (s *alteredStore) RecordEvents(ctx context.Context, tenant string, events []audit.Event) error {
	if err := s.fail["RecordEvents"]; err != nil {
		return err
	}
	s.writes++
	return s.Store.RecordEvents(ctx, tenant, events)
}

// alteredCustody answers Unwrap with what a test puts there.
type alteredCustody struct {
	keys.Custody
	unwrap func(ctx context.Context, tenant string, wrapped, aad []byte) ([]byte, error)
}

func (c *alteredCustody) Unwrap(ctx context.Context, tenant string, wrapped, aad []byte) ([]byte, error) {
	if c.unwrap == nil {
		return c.Custody.Unwrap(ctx, tenant, wrapped, aad)
	}
	return c.unwrap(ctx, tenant, wrapped, aad)
}

// TestFailures makes every part that issuing rests on fail: nothing is
// released, the caller may try again, and then it works.
func TestFailures(t *testing.T) {
	broken := errors.New("the disk is on fire")
	run := func(t *testing.T, arrange func(*alteredStore, *alteredCustody), repair func(*alteredStore, *alteredCustody)) {
		s := newStage(t)
		node := s.tenant(tenantA)
		e := s.entry(tenantA, node, "/w")
		db, custody := &alteredStore{Store: s.db, fail: map[string]error{}}, &alteredCustody{Custody: s.keys}
		s.ca = s.newCA(db, custody)
		arrange(db, custody)
		before := s.count(tenantA)
		r := s.sign(tenantA, node, itemFor(t, e))[0]
		wantProblem(t, r.Error, identity.Unavailable, "try again")
		if r.Chain != nil {
			t.Error("a certificate was released")
		}
		if strings.Contains(r.Error.Message, "fire") {
			t.Error("the caller is told about our insides")
		}
		j := s.signJWT(tenantA, node, jwtItemFor(e, "x"))
		wantProblem(t, j.Error, identity.Unavailable, "try again")
		if j.Token != "" || s.count(tenantA) != before {
			t.Error("a token was released or recorded")
		}
		repair(db, custody)
		s.issued(tenantA, node, itemFor(t, e))
	}
	for _, method := range []string{"Tenant", "EntriesByID", "Authorities", "RecordIntents"} {
		t.Run("T-18/refused/store."+method, func(t *testing.T) {
			run(t, func(db *alteredStore, _ *alteredCustody) { db.fail[method] = broken },
				func(db *alteredStore, _ *alteredCustody) { delete(db.fail, method) })
		})
	}
	t.Run("T-37/refused/custody is down", func(t *testing.T) {
		run(t, func(_ *alteredStore, c *alteredCustody) {
			c.unwrap = func(context.Context, string, []byte, []byte) ([]byte, error) { return nil, broken }
		}, func(_ *alteredStore, c *alteredCustody) { c.unwrap = nil })
	})
	t.Run("T-37/refused/custody gives nonsense", func(t *testing.T) {
		run(t, func(_ *alteredStore, c *alteredCustody) {
			c.unwrap = func(context.Context, string, []byte, []byte) ([]byte, error) { return []byte("nonsense"), nil }
		}, func(_ *alteredStore, c *alteredCustody) { c.unwrap = nil })
	})
	t.Run("T-37/refused/a signature that does not verify", func(t *testing.T) {
		good, other := newKey(t), newKey(t)
		if _, err := signVerified(good, [32]byte{1}); err != nil {
			t.Fatalf("the twin: %v", err)
		}
		mixed := *good
		mixed.PublicKey = other.PublicKey
		if sig, err := signVerified(&mixed, [32]byte{1}); err == nil {
			t.Fatalf("signed %x", sig)
		}
	})
	t.Run("T-18/refused/the audit trail is down", func(t *testing.T) {
		s := newStage(t)
		node := s.tenant(tenantA)
		s.ca = s.newCA(&alteredStore{Store: s.db, fail: map[string]error{"RecordEvents": broken}}, s.keys)
		item := itemFor(t, s.entry(tenantA, node, "/w"))
		item.Selectors = nil
		wantProblem(t, s.sign(tenantA, node, item)[0].Error, identity.Denied, "selectors")
	})
	t.Run("T-40/refused/no randomness", func(t *testing.T) {
		s := newStage(t)
		node := s.tenant(tenantA)
		cfg := s.config(s.db, s.keys)
		cfg.Rand = bytes.NewReader(nil)
		ca, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer ca.Close()
		r := ca.SignWorkloads(t.Context(), tenantA, node, []wire.SignItem{itemFor(t, s.entry(tenantA, node, "/w"))})
		wantProblem(t, r[0].Error, identity.Unavailable, "serial")
	})
}

// TestForeignKeys gives the CA keys and rows that are not what they say.
func TestForeignKeys(t *testing.T) {
	s := newStage(t)
	node := s.tenant(tenantA)
	s.tenant("b.example")
	e := s.entry(tenantA, node, "/w")
	theirs := s.authority("b.example", store.WorkloadIssuer)
	ours := s.authority(tenantA, store.NodeIssuer)
	change := func(f func(*store.Authority)) func([]store.Authority) []store.Authority {
		return func(rows []store.Authority) []store.Authority {
			for i := range rows {
				if rows[i].Purpose == store.WorkloadIssuer {
					f(&rows[i])
				}
			}
			return rows
		}
	}
	unbound := func(row store.Authority) func(context.Context, string, []byte, []byte) ([]byte, error) {
		return func(ctx context.Context, _ string, _, _ []byte) ([]byte, error) { // as one that looks at no aad
			return s.keys.Unwrap(ctx, row.Tenant, row.WrappedKey, keyContext(row))
		}
	}
	try := func(t *testing.T, rows func([]store.Authority) []store.Authority, unwrap func(context.Context, string, []byte, []byte) ([]byte, error)) *wire.Problem {
		t.Helper()
		s.ca = s.newCA(&alteredStore{Store: s.db, authorities: rows}, &alteredCustody{Custody: s.keys, unwrap: unwrap})
		return s.sign(tenantA, node, itemFor(t, e))[0].Error
	}
	t.Run("T-38/twin", func(t *testing.T) {
		if p := try(t, nil, nil); p != nil {
			t.Fatal(p.Message)
		}
	})
	for name, c := range map[string]struct {
		rows   func([]store.Authority) []store.Authority
		unwrap func(context.Context, string, []byte, []byte) ([]byte, error)
	}{
		"another tenant's wrapped key":               {change(func(a *store.Authority) { a.WrappedKey = theirs.WrappedKey }), nil},
		"another purpose's wrapped key":              {change(func(a *store.Authority) { a.WrappedKey = ours.WrappedKey }), nil},
		"custody gives another tenant's key":         {nil, unbound(theirs)},
		"custody gives another purpose's key":        {nil, unbound(ours)},
		"another tenant's row":                       {change(func(a *store.Authority) { *a = theirs }), nil},
		"another tenant's row under our name":        {change(func(a *store.Authority) { *a = theirs; a.Tenant, a.TrustDomain = tenantA, tenantA }), nil},
		"our row with another tenant's certificate":  {change(func(a *store.Authority) { a.Certificate = theirs.Certificate }), unbound(s.authority(tenantA, store.WorkloadIssuer))},
		"another tenant's row and a custody unbound": {change(func(a *store.Authority) { *a = theirs }), unbound(theirs)},
		"another trust domain in our row":            {change(func(a *store.Authority) { a.TrustDomain = "b.example" }), nil},
	} {
		t.Run("T-38/refused/"+name, func(t *testing.T) {
			wantProblem(t, try(t, c.rows, c.unwrap), identity.Unavailable, "signing key")
		})
	}
}

func TestForeignDomain(t *testing.T) {
	s := newStage(t)
	node := s.tenant(tenantA)
	e := s.entry(tenantA, node, "/w")
	for _, id := range []string{"spiffe://b.example/w", "spiffe://example/w", "spiffe://x.a.example/w", "spiffe://a.example.org/w", "spiffe://a.example", "spiffe://a.example/agent/n1"} {
		t.Run("T-10/refused/"+id, func(t *testing.T) {
			foreign, err := identity.ParseID(id)
			if err != nil {
				t.Fatal(err)
			}
			s.ca = s.newCA(&alteredStore{Store: s.db, entries: func(list []identity.Entry) []identity.Entry {
				for i := range list {
					list[i].SPIFFEID = foreign
				}
				return list
			}}, s.keys)
			wantProblem(t, s.sign(tenantA, node, itemFor(t, e))[0].Error, identity.Denied, "not a workload of trust domain")
			wantProblem(t, s.signJWT(tenantA, node, jwtItemFor(e, "x")).Error, identity.Denied, "not a workload of trust domain")
		})
	}
	t.Run("T-10/twin", func(t *testing.T) {
		s.ca = s.newCA(s.db, s.keys)
		s.issued(tenantA, node, itemFor(t, e))
	})
	t.Run("CA-2/refused/by the signer itself", func(t *testing.T) {
		v, err := s.ca.look(t.Context(), tenantA)
		if err != nil {
			t.Fatal(err)
		}
		signer, err := s.ca.signer(t.Context(), v, store.WorkloadIssuer, s.clock.Now())
		if err != nil {
			t.Fatal(err)
		}
		l := leaf{id: workloadID(t, tenantA, "/w"), serial: []byte{1}, key: newKey(t).Public(),
			notBefore: s.clock.Now(), notAfter: s.clock.Now().Add(time.Minute)}
		if _, err := signer.signX509(l); err != nil {
			t.Fatalf("the twin: %v", err)
		}
		l.id = workloadID(t, "b.example", "/w")
		if _, err := signer.signX509(l); err == nil || !strings.Contains(err.Error(), "does not sign for") {
			t.Fatalf("error is %v", err)
		}
	})
}

func TestHostNames(t *testing.T) {
	s := newStage(t)
	node := s.tenant(tenantA)
	for _, name := range []string{"*.a.example", "", "a..b", "-a", "a-", "A.example", "a b", "ä.example", "a/b", strings.Repeat("a", 64), "postgres\x00"} {
		if err := checkHostNames([]string{name}); identity.CodeOf(err) != identity.Invalid {
			t.Errorf("%q: %v", name, err)
		}
	}
	e := s.entry(tenantA, node, "/w", func(spec *identity.Spec) { spec.DNSNames = []string{"*.a.example"} })
	before := s.count(tenantA)
	wantProblem(t, s.sign(tenantA, node, itemFor(t, e))[0].Error, identity.Invalid, "host name")
	if s.count(tenantA) != before {
		t.Error("it is on record")
	}
}

func TestRetry(t *testing.T) {
	s := newStage(t)
	node := s.tenant(tenantA)
	e := s.entry(tenantA, node, "/w")
	item := itemFor(t, e)
	first := s.issued(tenantA, node, item)
	s.clock.Add(3 * time.Second)
	t.Run("same request, same answer", func(t *testing.T) {
		before := s.count(tenantA)
		if again := s.issued(tenantA, node, item); !bytes.Equal(again.Raw, first.Raw) {
			t.Error("another certificate")
		}
		if s.count(tenantA) != before {
			t.Error("recorded twice")
		}
	})
	t.Run("same id, another key", func(t *testing.T) {
		other := item
		other.CSR = requestFor(t, newKey(t))
		wantProblem(t, s.sign(tenantA, node, other)[0].Error, identity.Conflict, "request")
	})
	t.Run("same id, another entry", func(t *testing.T) {
		other := item
		entry := s.entry(tenantA, node, "/other")
		other.EntryID, other.EntryRevision = entry.ID, entry.Revision
		wantProblem(t, s.sign(tenantA, node, other)[0].Error, identity.Conflict, "request")
	})
	t.Run("after the end", func(t *testing.T) {
		s.clock.Add(2 * time.Hour)
		wantProblem(t, s.sign(tenantA, node, item)[0].Error, identity.Conflict, "request")
	})
}

func TestSerials(t *testing.T) {
	s := newStage(t)
	seen := map[string]bool{}
	for range 10_000 {
		serial, err := s.ca.newSerial()
		if err != nil {
			t.Fatal(err)
		}
		text := hex.EncodeToString(serial)
		if seen[text] || len(serial) != 16 || serial[0] < 0x40 || serial[0] > 0x7f {
			t.Fatalf("T-40: serial %s", text)
		}
		seen[text] = true
	}
	node := s.tenant(tenantA)
	cert := s.issued(tenantA, node, itemFor(t, s.entry(tenantA, node, "/w")))
	got, err := s.db.Issued(t.Context(), tenantA, cert.SerialNumber.Text(16))
	if err != nil || got.Node != node || !got.ExpiresAt.Equal(cert.NotAfter) || !got.NotBefore.Equal(cert.NotBefore) {
		t.Fatalf("T-39: the record of the certificate is %+v, %v", got, err)
	}
	t.Run("T-40/refused/a serial that is in use", func(t *testing.T) {
		cfg := s.config(s.db, s.keys)
		cfg.Rand = bytes.NewReader(bytes.Repeat(cert.SerialNumber.Bytes(), 2))
		ca, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer ca.Close()
		r := ca.SignWorkloads(t.Context(), tenantA, node, []wire.SignItem{itemFor(t, s.entry(tenantA, node, "/v"))})
		wantProblem(t, r[0].Error, identity.Conflict, "in use")
	})
}

func TestRecordsAreClosed(t *testing.T) {
	s := newStage(t)
	node := s.tenant(tenantA)
	cert := s.issued(tenantA, node, itemFor(t, s.entry(tenantA, node, "/w")))
	s.ca.Close() // what is pending is done when it returns
	got, err := s.db.Issued(t.Context(), tenantA, cert.SerialNumber.Text(16))
	if err != nil || got.State != "issued" {
		t.Fatalf("record is %+v, %v", got, err)
	}
}

// TestDeleteDuringSign deletes the entry, or bans the node, at each moment of
// an issuance: either nothing is released or what is released is revoked.
func TestDeleteDuringSign(t *testing.T) {
	type moment struct {
		name  string
		arm   func(db *alteredStore, act func())
		fatal bool // nothing may be released
	}
	moments := []moment{
		{"between check and record", func(db *alteredStore, act func()) {
			db.entries = func(list []identity.Entry) []identity.Entry { act(); return list }
		}, true},
		{"between record and signature", func(db *alteredStore, act func()) { db.recorded = act }, false},
	}
	for _, m := range moments {
		for _, what := range []string{"entry", "node"} {
			t.Run(what+" "+m.name, func(t *testing.T) {
				s := newStage(t)
				node := s.tenant(tenantA)
				e := s.entry(tenantA, node, "/w")
				db := &alteredStore{Store: s.db}
				s.ca = s.newCA(db, s.keys)
				m.arm(db, func() {
					var err error
					if what == "entry" {
						err = s.db.DeleteEntry(context.Background(), tenantA, e.ID, s.clock.Now(), s.event(tenantA))
					} else {
						err = s.db.BanNode(context.Background(), tenantA, node, s.clock.Now(), s.event(tenantA))
					}
					if err != nil {
						t.Error(err)
					}
				})
				r := s.sign(tenantA, node, itemFor(t, e))[0]
				if m.fatal {
					wantProblem(t, r.Error, identity.Denied, "")
					return
				}
				if r.Error != nil {
					t.Fatal(r.Error.Message)
				}
				s.wantRevoked(tenantA, r)
			})
		}
	}
}

func (s *stage) wantRevoked(tenant string, r wire.SignResult) {
	s.tb.Helper()
	serial := parseCert(s.tb, r.Chain[0]).SerialNumber.Text(16)
	revoked, err := s.db.Revoked(s.tb.Context(), tenant, serial)
	if err != nil || !revoked {
		s.tb.Errorf("certificate %s of a deleted entry was released and is not revoked (%v)", serial, err)
	}
}

// TestDeleteRace lets many sign while the entry is deleted.
func TestDeleteRace(t *testing.T) {
	s := newStage(t)
	node := s.tenant(tenantA)
	for round := range 10 {
		e := s.entry(tenantA, node, fmt.Sprintf("/w%d", round))
		items := make([]wire.SignItem, 8)
		for i := range items {
			items[i] = itemFor(t, e)
		}
		results := make([]wire.SignResult, len(items))
		var wg sync.WaitGroup
		for i := range items {
			wg.Go(func() { results[i] = s.ca.SignWorkloads(t.Context(), tenantA, node, items[i:i+1])[0] })
		}
		wg.Go(func() {
			if err := s.db.DeleteEntry(t.Context(), tenantA, e.ID, s.clock.Now(), s.event(tenantA)); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
		for _, r := range results {
			if r.Error == nil {
				s.wantRevoked(tenantA, r)
			} else if r.Error.Code != identity.Denied {
				t.Errorf("refused as %+v", r.Error)
			}
		}
	}
}

func TestDenialIsAudited(t *testing.T) {
	s := newStage(t)
	node := s.tenant(tenantA)
	item := itemFor(t, s.entry(tenantA, node, "/w"))
	item.Selectors = nil
	s.sign(tenantA, node, item)
	events, err := s.db.Events(t.Context(), tenantA, 0, 1)
	if err != nil || len(events) != 1 {
		t.Fatal(events, err)
	}
	if ev := events[0]; ev.Action != "svid.issue" || ev.Outcome != audit.Denied || ev.Actor != node || ev.Object != item.EntryID || !strings.Contains(ev.Reason, "selectors") {
		t.Errorf("event is %+v", ev)
	}
}

// TestDenialsOfABatch has an agent ask for much that it may not have, and leave
// before the answer: every denial is on record, by one write.
func TestDenialsOfABatch(t *testing.T) {
	s := newStage(t)
	node := s.tenant(tenantA)
	items := make([]wire.SignItem, wire.MaxBatch)
	items[0] = itemFor(t, s.entry(tenantA, node, "/w"))
	for i := range items[1:] {
		items[i+1] = items[0]
		items[i+1].EntryID = fmt.Sprintf("nothing-%d", i)
		items[i+1].CSR = requestFor(t, newKey(t))
	}
	ctx, leave := context.WithCancel(t.Context())
	altered := &alteredStore{Store: s.db, recorded: leave}
	s.newCA(altered, s.keys).SignWorkloads(ctx, tenantA, node, items)
	events, err := s.db.Events(t.Context(), tenantA, 0, 2*wire.MaxBatch)
	if err != nil {
		t.Fatal(err)
	}
	denied := 0
	for _, ev := range events {
		if ev.Outcome == audit.Denied {
			denied++
		}
	}
	if denied != wire.MaxBatch-1 || altered.writes != 1 {
		t.Errorf("%d denials are on record by %d writes, want %d by one", denied, altered.writes, wire.MaxBatch-1)
	}
}

func TestMetrics(t *testing.T) {
	s := newStage(t)
	reader := sdkmetric.NewManualReader()
	cfg := s.config(s.db, s.keys)
	cfg.Meter = sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)).Meter("test")
	ca, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer ca.Close()
	s.ca = ca
	node := s.tenant(tenantA)
	e := s.entry(tenantA, node, "/w")
	bad := itemFor(t, e)
	bad.Selectors = nil
	s.sign(tenantA, node, itemFor(t, e), itemFor(t, e), bad)
	s.signJWT(tenantA, node, jwtItemFor(e, "x"))
	var data metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &data); err != nil {
		t.Fatal(err)
	}
	got := map[string]int64{}
	for _, m := range data.ScopeMetrics[0].Metrics {
		if sum, ok := m.Data.(metricdata.Sum[int64]); ok {
			for _, p := range sum.DataPoints {
				kind, _ := p.Attributes.Value(attribute.Key("kind"))
				outcome, _ := p.Attributes.Value(attribute.Key("outcome"))
				got[kind.AsString()+" "+outcome.AsString()] = p.Value
			}
		}
	}
	want := map[string]int64{"agent issued": 1, "x509 issued": 2, "x509 permission_denied": 1, "jwt issued": 1}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("counted %v; want %v", got, want)
	}
}
