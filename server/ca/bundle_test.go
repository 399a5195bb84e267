package ca

import (
	"encoding/base64"
	"encoding/json"
	"regexp"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/server/store"
)

func (s *stage) bundle(tenant string) *spiffebundle.Bundle {
	s.tb.Helper()
	b, err := s.ca.Bundle(s.tb.Context(), tenant)
	if err != nil {
		s.tb.Fatal(err)
	}
	return b
}

// goldenBundle is a new tenant's bundle, values that differ each time replaced.
const goldenBundle = `{"keys":[` +
	`{"use":"x509-svid","kty":"EC","crv":"P-256","x":"…","y":"…","x5c":["…"]},` +
	`{"use":"jwt-svid","kty":"EC","kid":"…","crv":"P-256","x":"…","y":"…"}` +
	`],"spiffe_sequence":2,"spiffe_refresh_hint":300}`

func TestBundle(t *testing.T) {
	s := newStage(t)
	node := s.tenant(tenantA)
	doc, err := s.bundle(tenantA).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	t.Run("X509-24 X509-25 JWT-16/golden", func(t *testing.T) {
		got := regexp.MustCompile(`("(?:x|y|kid)":|"x5c":\[)"[^"]+"`).ReplaceAllString(string(doc), `$1"…"`)
		if got != goldenBundle {
			t.Errorf("bundle is\n%s\nwant\n%s", got, goldenBundle)
		}
	})
	var parsed struct {
		Keys []struct {
			Use, Kid string
			X5c      []string
		}
	}
	if err := json.Unmarshal(doc, &parsed); err != nil {
		t.Fatal(err)
	}
	t.Run("X509-26/golden", func(t *testing.T) {
		der, err := base64.StdEncoding.DecodeString(parsed.Keys[0].X5c[0])
		if err != nil || len(parsed.Keys[0].X5c) != 1 {
			t.Fatal(parsed.Keys[0].X5c, err)
		}
		if cert := parseCert(t, der); cert.CheckSignatureFrom(cert) != nil || string(der) != string(s.authority(tenantA, store.WorkloadAnchor).Certificate) {
			t.Error("it is not the self-signed anchor")
		}
	})
	t.Run("JWT-16/golden", func(t *testing.T) {
		if parsed.Keys[1].Kid != s.authority(tenantA, store.JWTKey).ID {
			t.Errorf("kid is %q", parsed.Keys[1].Kid)
		}
	})
	t.Run("node anchors are in no bundle", func(t *testing.T) {
		nodeAnchors, err := s.ca.NodeAnchors(t.Context(), tenantA)
		if err != nil || len(nodeAnchors.X509Authorities()) != 1 {
			t.Fatal(nodeAnchors, err)
		}
		if s.bundle(tenantA).HasX509Authority(nodeAnchors.X509Authorities()[0]) {
			t.Error("the node anchor is in the bundle")
		}
	})
	t.Run("TDB-04/twin/what is not in it does not count", func(t *testing.T) {
		s.entry(tenantA, node, "/w")
		if n, _ := s.bundle(tenantA).SequenceNumber(); n != 2 {
			t.Errorf("sequence is %d", n)
		}
	})
	t.Run("TDB-05/twin", func(t *testing.T) {
		if hint, ok := s.bundle(tenantA).RefreshHint(); !ok || hint != 5*time.Minute {
			t.Errorf("hint is %v", hint)
		}
	})
	t.Run("unknown tenant", func(t *testing.T) {
		if _, err := s.ca.Bundle(t.Context(), "nobody"); identity.CodeOf(err) != identity.NotFound {
			t.Errorf("error is %v", err)
		}
		if _, err := s.ca.NodeAnchors(t.Context(), "nobody"); identity.CodeOf(err) != identity.NotFound {
			t.Errorf("error is %v", err)
		}
	})
}
