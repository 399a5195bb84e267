package ca

import (
	"bytes"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/identity/svid"
	"github.com/authsec-ai/icp/internal/wire"
	"github.com/authsec-ai/icp/server/store"
)

const day = 24 * time.Hour

func (s *stage) countOf(tenant string, p store.Purpose) (n int) {
	s.tb.Helper()
	rows, err := s.db.Authorities(s.tb.Context(), tenant)
	if err != nil {
		s.tb.Fatal(err)
	}
	for _, row := range rows {
		if row.Purpose == p {
			n++
		}
	}
	return n
}

func (s *stage) chain(tenant, node string, e identity.Entry) [][]byte {
	s.tb.Helper()
	r := s.sign(tenant, node, itemFor(s.tb, e))[0]
	if r.Error != nil {
		s.tb.Fatal(r.Error.Message)
	}
	return r.Chain
}

// TestIssuerRotation walks through an issuer's week.
func TestIssuerRotation(t *testing.T) {
	s := newStage(t)
	node := s.tenant(tenantA)
	e := s.entry(tenantA, node, "/w")
	first := s.chain(tenantA, node, e)

	s.clock.Add(6*day - 2*time.Second)
	if last := s.chain(tenantA, node, e); !bytes.Equal(last[1], first[1]) {
		t.Fatal("the issuer is replaced before its last day")
	}
	s.clock.Add(3 * time.Second)

	// Many find out at the same time; one makes the successor.
	chains := make([][][]byte, 16)
	var wg sync.WaitGroup
	for i := range chains {
		item := itemFor(t, e)
		wg.Go(func() { chains[i] = s.ca.SignWorkloads(t.Context(), tenantA, node, []wire.SignItem{item})[0].Chain })
	}
	wg.Wait()
	for _, c := range chains {
		if c == nil || bytes.Equal(c[1], first[1]) || !bytes.Equal(c[1], chains[0][1]) {
			t.Fatal("not all are signed by the one new issuer")
		}
		leaf := parseCert(t, c[0])
		if leaf.NotAfter.Sub(s.clock.Now().Truncate(time.Second)) != time.Hour || leaf.NotAfter.After(parseCert(t, c[1]).NotAfter) {
			t.Error("T-09: a lifetime was cut, or outlives the issuer")
		}
		if _, err := svid.VerifyX509(c, s.bundle(tenantA).X509Bundle(), svid.X509Options{Now: s.clock.Now()}); err != nil {
			t.Error(err)
		}
	}
	if n := s.countOf(tenantA, store.WorkloadIssuer); n != 2 {
		t.Errorf("%d issuers", n)
	}
	if n := s.countOf(tenantA, store.NodeIssuer); n != 1 {
		t.Errorf("%d node issuers, though no agent asked", n)
	}
	// The bundle does not change, and what the old issuer signed still holds.
	if n, _ := s.bundle(tenantA).SequenceNumber(); n != 2 {
		t.Errorf("sequence is %d", n)
	}
	// A replica that starts now uses the same issuer.
	s.ca = s.newCA(s.db, s.keys)
	if c := s.chain(tenantA, node, e); !bytes.Equal(c[1], chains[0][1]) {
		t.Error("another replica has an issuer of its own")
	}
}

func TestIssuerOutlastsLongLifetimes(t *testing.T) {
	s := newStage(t)
	node := s.tenant(tenantA, store.Settings{MaxTTL: duration(3 * day)})
	e := s.entry(tenantA, node, "/w", func(spec *identity.Spec) { spec.TTL = duration(3 * day) })
	first := s.chain(tenantA, node, e)
	s.clock.Add(4*day + time.Second) // two days and more before its end
	second := s.chain(tenantA, node, e)
	if bytes.Equal(first[1], second[1]) || parseCert(t, second[0]).NotAfter.After(parseCert(t, second[1]).NotAfter) {
		t.Error("T-09: the issuer was not replaced in time")
	}
}

func TestRotationFails(t *testing.T) {
	s := newStage(t)
	node := s.tenant(tenantA)
	e := s.entry(tenantA, node, "/w")
	db := &alteredStore{Store: s.db, fail: map[string]error{"PutAuthority": errors.New("read-only")}}
	s.ca = s.newCA(db, s.keys)
	first := s.chain(tenantA, node, e)
	s.clock.Add(6*day + time.Hour)
	if c := s.chain(tenantA, node, e); !bytes.Equal(c[1], first[1]) {
		t.Error("the old issuer is not used while it can be")
	}
	s.clock.Add(22*time.Hour + 30*time.Minute) // less than a lifetime to go
	wantProblem(t, s.sign(tenantA, node, itemFor(t, e))[0].Error, identity.Unavailable, "signing key")
	delete(db.fail, "PutAuthority")
	s.clock.Add(viewAge)
	if c := s.chain(tenantA, node, e); bytes.Equal(c[1], first[1]) {
		t.Error("the issuer is not replaced when that works again")
	}
}

// TestJWTKeyRotation: a new key is published a day before it signs.
func TestJWTKeyRotation(t *testing.T) {
	s := newStage(t)
	node := s.tenant(tenantA)
	e := s.entry(tenantA, node, "/w")
	kid := func() string {
		t.Helper()
		r := s.signJWT(tenantA, node, jwtItemFor(e, "x"))
		if r.Error != nil {
			t.Fatal(r.Error.Message)
		}
		got, err := svid.VerifyJWT(r.Token, []string{"x"}, s.jwtBundle(tenantA), svid.JWTOptions{Now: s.clock.Now()})
		if err != nil {
			t.Fatal(err)
		}
		return got.KeyID
	}
	first := kid()
	sequence := uint64(2)
	step := func(name string, d time.Duration, keys int, wantSequence uint64, same bool) {
		t.Helper()
		s.clock.Add(d)
		if got := kid(); (got == first) != same {
			t.Errorf("%s: signed by %s, first was %s", name, got, first)
		}
		b := s.bundle(tenantA)
		n, _ := b.SequenceNumber()
		if len(b.JWTAuthorities()) != keys || n != wantSequence || n < sequence {
			t.Errorf("%s: %d keys, sequence %d after %d; want %d and %d", name, len(b.JWTAuthorities()), n, sequence, keys, wantSequence)
		}
		sequence = n
	}
	step("before", 83*day-time.Second, 1, 2, true)
	step("prepared", 2*time.Second, 2, 3, true)
	step("not yet active", day-2*time.Second, 2, 3, true)
	step("active", 2*time.Second, 2, 3, false)
	step("old one retired", 6*day, 1, 4, false)
}

func TestSettingsCountSoon(t *testing.T) {
	s := newStage(t)
	node := s.tenant(tenantA)
	e := s.entry(tenantA, node, "/w")
	lifetime := func() time.Duration {
		c := parseCert(t, s.chain(tenantA, node, e)[0])
		return c.NotAfter.Sub(c.NotBefore) - 10*time.Second
	}
	if got := lifetime(); got != time.Hour {
		t.Fatal(got)
	}
	err := s.db.UpdateSettings(t.Context(), tenantA, store.Settings{TTL: duration(time.Minute)}, s.event(tenantA))
	if err != nil {
		t.Fatal(err)
	}
	s.clock.Add(viewAge)
	if got := lifetime(); got != time.Minute {
		t.Errorf("lifetime is %v", got)
	}
}

func TestCreateTenant(t *testing.T) {
	s := newStage(t)
	s.tenant(tenantA)
	before := s.authority(tenantA, store.WorkloadAnchor)
	err := s.ca.CreateTenant(t.Context(), store.Tenant{ID: tenantA, CreatedAt: s.clock.Now()}, s.event(tenantA))
	if identity.CodeOf(err) != identity.Conflict {
		t.Errorf("the same tenant again: %v", err)
	}
	if after := s.authority(tenantA, store.WorkloadAnchor); after.ID != before.ID {
		t.Error("it has another anchor")
	}
	if _, err := s.ca.unwrap(t.Context(), before); err != nil {
		t.Errorf("its keys are lost: %v", err)
	}
	for _, bad := range []store.Tenant{{}, {ID: "x", TrustDomain: "Not A Domain"}, {ID: "Not A Domain"}, {ID: "../up", TrustDomain: "up.example"}} {
		if err := s.ca.CreateTenant(t.Context(), bad, s.event("x")); identity.CodeOf(err) != identity.Invalid {
			t.Errorf("CreateTenant(%+v): %v", bad, err)
		}
	}
	err = s.ca.CreateTenant(t.Context(), store.Tenant{ID: "b", TrustDomain: tenantA, CreatedAt: s.clock.Now()}, s.event("b"))
	if identity.CodeOf(err) != identity.Conflict {
		t.Errorf("a second tenant with the trust domain: %v", err)
	}
}
