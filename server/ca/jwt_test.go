package ca

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/identity/svid"
	"github.com/authsec-ai/icp/internal/wire"
	"github.com/authsec-ai/icp/server/store"
)

func (s *stage) jwtBundle(tenant string) *jwtbundle.Bundle {
	s.tb.Helper()
	b, err := s.ca.Bundle(s.tb.Context(), tenant)
	if err != nil {
		s.tb.Fatal(err)
	}
	return b.JWTBundle()
}

func segment(t *testing.T, token string, i int) string {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("JWT-01: token has %d parts", len(parts))
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[i])
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func TestToken(t *testing.T) {
	s := newStage(t)
	node := s.tenant(tenantA)
	e := s.entry(tenantA, node, "/ai-agents/sales-bot")
	r := s.signJWT(tenantA, node, jwtItemFor(e, "llm", "https://b", "llm", "<&>"))
	if r.Error != nil {
		t.Fatal(r.Error)
	}
	now := s.clock.Now().Truncate(time.Second)
	kid := s.authority(tenantA, store.JWTKey).ID

	t.Run("JWT-02/twin", func(t *testing.T) {
		if got, want := segment(t, r.Token, 0), `{"alg":"ES256","kid":"`+kid+`","typ":"JWT"}`; got != want {
			t.Errorf("header is %s; want %s", got, want)
		}
	})
	t.Run("claims", func(t *testing.T) {
		var got map[string]any
		if err := json.Unmarshal([]byte(segment(t, r.Token, 1)), &got); err != nil {
			t.Fatal(err)
		}
		jti, _ := got["jti"].(string)
		delete(got, "jti")
		want := map[string]any{"aud": []any{"llm", "https://b", "<&>"}, "sub": "spiffe://a.example/ai-agents/sales-bot",
			"iat": float64(now.Unix()), "exp": float64(now.Add(5 * time.Minute).Unix())}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("claims are %v; want %v", got, want)
		}
		record, err := s.db.Issued(t.Context(), tenantA, jti)
		if err != nil || record.Kind != identity.JWT || !record.ExpiresAt.Equal(r.ExpiresAt) || !r.IssuedAt.Equal(now) {
			t.Errorf("record of jti %q is %+v, %v", jti, record, err)
		}
	})
	t.Run("CA-10/twin", func(t *testing.T) {
		got, err := svid.VerifyJWT(r.Token, []string{"https://b"}, s.jwtBundle(tenantA), svid.JWTOptions{Now: s.clock.Now()})
		if err != nil || got.ID != e.SPIFFEID || got.KeyID != kid {
			t.Errorf("verified as %+v, %v", got, err)
		}
	})
	t.Run("CA-10/refused", func(t *testing.T) {
		s.tenant("b.example")
		theirs := jwtbundle.FromJWTAuthorities(e.SPIFFEID.TrustDomain(), s.jwtBundle("b.example").JWTAuthorities())
		if _, err := svid.VerifyJWT(r.Token, []string{"llm"}, theirs, svid.JWTOptions{Now: s.clock.Now()}); err == nil {
			t.Error("another tenant's keys verify it")
		}
	})
}

// TestTokenForGoSPIFFE lets the standard's own library judge a token; it has no
// clock to set, so this CA runs on real time.
func TestTokenForGoSPIFFE(t *testing.T) {
	s := newStage(t)
	s.clock.Add(time.Since(s.clock.Now()))
	node := s.tenant(tenantA)
	r := s.signJWT(tenantA, node, jwtItemFor(s.entry(tenantA, node, "/w"), "llm"))
	if r.Error != nil {
		t.Fatal(r.Error)
	}
	got, err := jwtsvid.ParseAndValidate(r.Token, s.jwtBundle(tenantA), []string{"llm"})
	if err != nil || got.ID.String() != "spiffe://a.example/w" {
		t.Fatalf("go-spiffe gives %v, %v", got, err)
	}
}

func TestAudience(t *testing.T) {
	s := newStage(t)
	node := s.tenant(tenantA)
	e := s.entry(tenantA, node, "/w")
	many := make([]string, 17)
	for i := range many {
		many[i] = fmt.Sprint("aud", i)
	}
	for name, audience := range map[string][]string{
		"JWT-09/refused/none": nil, "JWT-09/refused/an empty one": {"a", ""},
		"JWT-11/refused/too many": many, "JWT-11/refused/too long": {strings.Repeat("a", 1025)},
	} {
		t.Run(name, func(t *testing.T) {
			wantProblem(t, s.signJWT(tenantA, node, jwtItemFor(e, audience...)).Error, identity.Invalid, "audience")
		})
	}
	t.Run("JWT-11/twin", func(t *testing.T) {
		if r := s.signJWT(tenantA, node, jwtItemFor(e, many[:16]...)); r.Error != nil {
			t.Fatal(r.Error)
		}
	})
}

func TestTokenLifetime(t *testing.T) {
	s := newStage(t)
	node := s.tenant(tenantA)
	for ttl, want := range map[time.Duration]time.Duration{
		0: 5 * time.Minute, 10 * time.Minute: 10 * time.Minute, 2 * time.Hour: time.Hour, time.Second: 5 * time.Second,
	} {
		e := s.entry(tenantA, node, "/w"+ttl.String(), func(spec *identity.Spec) { spec.JWTTTL, spec.TTL = duration(ttl), duration(time.Minute) })
		r := s.signJWT(tenantA, node, jwtItemFor(e, "x"))
		if r.Error != nil {
			t.Fatal(r.Error)
		}
		if got := r.ExpiresAt.Sub(r.IssuedAt); got != want {
			t.Errorf("jwt_ttl %v gives %v; want %v", ttl, got, want)
		}
	}
}

func TestTokenRetry(t *testing.T) {
	s := newStage(t)
	node := s.tenant(tenantA)
	item := jwtItemFor(s.entry(tenantA, node, "/w"), "a", "b")
	first := s.signJWT(tenantA, node, item)
	s.clock.Add(3 * time.Second)
	again := s.signJWT(tenantA, node, item)
	if first.Error != nil || again.Error != nil || first.Token != again.Token {
		t.Errorf("a retry gives another token: %+v and %+v", first, again)
	}
	item.Audience = []string{"ab"}
	other := s.signJWT(tenantA, node, item)
	if other.Error != nil || segment(t, other.Token, 1) == segment(t, first.Token, 1) {
		t.Errorf("another audience gives %+v", other)
	}
	if got := s.count(tenantA); got != 3 { // the agent's own certificate and two tokens
		t.Errorf("AU-1: %d on record", got)
	}
}

// TestTokenBatch has bad items beside good ones.
func TestTokenBatch(t *testing.T) {
	s := newStage(t)
	node := s.tenant(tenantA)
	other := s.node(tenantA, "n2")
	foreign := s.entry(tenantA, other, "/foreign")
	e := s.entry(tenantA, node, "/w")
	for bad := range 3 {
		items := []wire.SignJWTItem{jwtItemFor(e, "0"), jwtItemFor(e, "1"), jwtItemFor(e, "2")}
		items[bad].EntryID, items[bad].EntryRevision = foreign.ID, foreign.Revision
		for i, r := range s.ca.SignJWTs(t.Context(), tenantA, node, items) {
			if i == bad {
				wantProblem(t, r.Error, identity.Denied, "no entry")
			} else if r.Error != nil || !strings.Contains(segment(t, r.Token, 1), fmt.Sprintf(`"aud":["%d"]`, i)) {
				t.Errorf("T-05: item %d beside bad item %d: %+v", i, bad, r)
			}
		}
	}
}
