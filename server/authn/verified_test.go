package authn

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func anchorsOf(raw string) *x509bundle.Bundle {
	return x509bundle.FromX509Authorities(spiffeid.RequireTrustDomainFromString("a.example"), []*x509.Certificate{{Raw: []byte(raw)}})
}

// TestVerificationHolds has a chain whose second certificate ends first.
func TestVerificationHolds(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	chain := []*x509.Certificate{{NotAfter: now.Add(2 * time.Hour)}, {NotAfter: now.Add(time.Hour)}}
	v := newVerification(chain, anchorsOf("one"), Principal{}, now)
	for name, row := range map[string]struct {
		anchors *x509bundle.Bundle
		at      time.Time
		holds   bool
	}{
		"at once":                {anchorsOf("one"), now, true},
		"later":                  {anchorsOf("one"), now.Add(59 * time.Minute), true},
		"issuer has expired":     {anchorsOf("one"), now.Add(time.Hour), false},
		"clock went back":        {anchorsOf("one"), now.Add(-time.Second), false},
		"anchor was replaced":    {anchorsOf("two"), now, false},
		"anchors are all gone":   {x509bundle.New(spiffeid.RequireTrustDomainFromString("a.example")), now, false},
		"another trust domain's": {x509bundle.FromX509Authorities(spiffeid.RequireTrustDomainFromString("b.example"), anchorsOf("one").X509Authorities()), now, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := v.holds(row.anchors, row.at); got != row.holds {
				t.Errorf("holds: %v", got)
			}
		})
	}
}

func TestVerifiedIsBounded(t *testing.T) {
	var v verified
	for i := range maxVerified + 10 {
		v.put(sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(i))), verification{})
	}
	if len(v.known) > maxVerified {
		t.Errorf("%d chains are remembered; the limit is %d", len(v.known), maxVerified)
	}
	if _, ok := v.get(keyOf([]*x509.Certificate{{Raw: []byte("stranger")}})); ok {
		t.Error("a chain that nobody verified is known")
	}
}
