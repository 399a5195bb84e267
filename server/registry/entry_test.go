package registry

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/server/store"
)

// TestLimits is T-13: each limit is kept at its edge, and on the value that it
// is about.
func TestLimits(t *testing.T) {
	tenant := store.Tenant{ID: "acme", TrustDomain: "acme.example", Settings: store.Settings{MaxTTL: identity.Duration(2 * time.Hour)}}
	list := func(n int) (names []string) {
		for i := range n {
			names = append(names, fmt.Sprintf("n%d", i))
		}
		return names
	}
	selectors := func(n int) (set identity.Selectors) {
		for _, name := range list(n) {
			set = append(set, identity.Selector{Type: "unix", Value: "path:" + name})
		}
		return identity.NewSelectors(set...)
	}
	seconds := func(n int) identity.Duration { return identity.Duration(time.Duration(n) * time.Second) }
	for name, c := range map[string]struct {
		set  func(s *identity.Spec, n int)
		ok   int
		over int
		code identity.Code
	}{
		"least ttl":     {func(s *identity.Spec, n int) { s.TTL = seconds(n) }, 5, 4, identity.Invalid},
		"most ttl":      {func(s *identity.Spec, n int) { s.TTL = seconds(n) }, 7200, 7201, identity.LimitExceeded},
		"least jwt_ttl": {func(s *identity.Spec, n int) { s.JWTTTL = seconds(n) }, 5, 4, identity.Invalid},
		"most jwt_ttl":  {func(s *identity.Spec, n int) { s.JWTTTL = seconds(n) }, 7200, 7201, identity.LimitExceeded},
		"least renewal": {func(s *identity.Spec, n int) { s.RenewAt = float64(n) / 1000 }, 100, 99, identity.Invalid},
		"most renewal":  {func(s *identity.Spec, n int) { s.RenewAt = float64(n) / 1000 }, 950, 951, identity.Invalid},
		"spiffe_id":     {func(s *identity.Spec, n int) { s.SPIFFEID = idOfBytes(t, n) }, 2048, 2049, identity.Invalid}, // ID-16, ID-17
		"hint":          {func(s *identity.Spec, n int) { s.Hint = strings.Repeat("h", n) }, 1024, 1025, identity.Invalid},
		"hint in bytes": {func(s *identity.Spec, n int) { s.Hint = strings.Repeat("é", n) }, 512, 513, identity.Invalid},
		"selectors":     {func(s *identity.Spec, n int) { s.Selectors = selectors(n) }, 64, 65, identity.Invalid},
		"one selector":  {func(s *identity.Spec, n int) { s.Selectors = selectors(n) }, 1, 0, identity.Invalid},
		"dns names":     {func(s *identity.Spec, n int) { s.DNSNames = list(n) }, 64, 65, identity.Invalid},
		"dns label":     {func(s *identity.Spec, n int) { s.DNSNames = []string{strings.Repeat("a", n) + ".example"} }, 63, 64, identity.Invalid},
		"services":      {func(s *identity.Spec, n int) { s.Gateway = list(n) }, 64, 65, identity.Invalid},
		"service name":  {func(s *identity.Spec, n int) { s.Gateway = []string{strings.Repeat("s", n)} }, 128, 129, identity.Invalid},
	} {
		spec := identity.Spec{
			SPIFFEID: spiffeid.RequireFromString("spiffe://acme.example/web"),
			ParentID: spiffeid.RequireFromString("spiffe://acme.example/agent/n1"), Selectors: selectors(1),
		}
		t.Run("T-13/"+name+"/twin", func(t *testing.T) {
			s := spec
			c.set(&s, c.ok)
			if err := checkSpec(tenant, s); err != nil {
				t.Error(err)
			}
		})
		t.Run("T-13/"+name, func(t *testing.T) {
			s := spec
			c.set(&s, c.over)
			if err := checkSpec(tenant, s); identity.CodeOf(err) != c.code {
				t.Errorf("got %v, want code %s", err, c.code)
			}
		})
	}
}

func TestRenewAtIsANumber(t *testing.T) {
	for _, at := range []float64{math.NaN(), math.Inf(1), math.Inf(-1), -0.5} {
		if checkRenewAt(at) == nil {
			t.Errorf("%v accepted", at)
		}
	}
}

func TestReservedPaths(t *testing.T) {
	for path, reserved := range map[string]bool{
		"/agent/n1": true, "/AGENT/n1": true, "/agent/a/b": false, "/agents/n1": false, "/agent": false, "/x/agent/n1": false,
	} {
		if got := isReserved(path); got != reserved {
			t.Errorf("T-11: %s reserved: %v, want %v", path, got, reserved)
		}
	}
}

func TestHostNames(t *testing.T) {
	for name, ok := range map[string]bool{
		"a": true, "a-b.example": true, "1.example": true, "xn--a.example": true,
		"": false, ".": false, "a.": false, ".a": false, "a..b": false, "-a": false, "a-": false, "A.example": false,
		"*.example": false, "a_b": false, "a b": false, "é.example": false, "a\x00b": false,
		strings.Repeat("a.", 126) + "a": true, strings.Repeat("a.", 127) + "a": false,
	} {
		if got := isDNSName(name); got != ok {
			t.Errorf("%q is a host name: %v, want %v", name, got, ok)
		}
	}
}

func TestTenantIDs(t *testing.T) {
	for id, ok := range map[string]bool{
		"acme": true, "a": true, "a-1": true, strings.Repeat("a", 63): true,
		"": false, "-a": false, "a-": false, "Acme": false, "a.b": false, "a/b": false, "@platform": false, strings.Repeat("a", 64): false,
	} {
		if got := isLabel(id); got != ok {
			t.Errorf("%q is a tenant id: %v, want %v", id, got, ok)
		}
	}
}

// idOfBytes gives an ID of the tenant that is n bytes long.
func idOfBytes(t *testing.T, n int) spiffeid.ID {
	t.Helper()
	const start = "spiffe://acme.example/"
	id, err := spiffeid.FromString(start + strings.Repeat("a", n-len(start)))
	if err != nil {
		t.Fatal(err)
	}
	return id
}
