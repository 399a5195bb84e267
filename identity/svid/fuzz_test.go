package svid_test

import (
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/identity/svid"
	"github.com/authsec-ai/icp/internal/corpus"
)

// FuzzVerifyX509 takes the bytes of a certificate before it is signed, signs
// them, and asks that nothing breaks and that we accept nothing which the
// libraries refuse.
func FuzzVerifyX509(f *testing.F) {
	world := newWorld(f)
	for _, c := range x509Cases(f) {
		if len(c.Chain) > 0 && len(c.Chain[0]) < 8<<10 {
			f.Add(signedPart(c.Chain[0]))
		}
	}
	f.Fuzz(func(t *testing.T, tbs []byte) {
		leaf := world.Leaf(world.A.Issuing, func(t *corpus.Template) { t.Signed = func([]byte) []byte { return tbs } })
		for _, chain := range [][][]byte{{leaf, world.A.Issuing.DER}, {tbs}, {world.A.Issuing.DER, tbs}} {
			got, err := svid.VerifyX509(chain, world.Bundles, svid.X509Options{Now: world.Now})
			if err != nil {
				if got != nil || svid.ReasonOf(err) == "" {
					t.Fatalf("got %+v, error %v", got, err)
				}
				continue
			}
			if theirs := others(chain, world.Bundles, world.Now); theirs != nil {
				t.Fatalf("accepted as %s, but refused elsewhere: %v", got.ID, theirs)
			}
			if _, err := identity.ParseWorkloadID(got.ID.String()); err != nil {
				t.Fatalf("accepted with a bad ID: %v", err)
			}
		}
		_, _ = svid.LintLeaf(leaf), svid.LintAuthority(leaf)
	})
}

// signedPart cuts the TBSCertificate out of a certificate whose two outer
// lengths take two bytes each; anything else is a seed as it is.
func signedPart(der []byte) []byte {
	if len(der) < 8 || der[1] != 0x82 || der[5] != 0x82 {
		return der
	}
	end := 8 + int(der[6])<<8 + int(der[7])
	if end > len(der) {
		return der
	}
	return der[4:end]
}

// FuzzVerifyJWT takes header and payload, signs them, and asks that we accept
// nothing which go-spiffe refuses; then it takes the same text as a token.
func FuzzVerifyJWT(f *testing.F) {
	world := newWorld(f)
	for _, c := range tokenCases(f) {
		parts := strings.Split(c.Token, ".")
		if len(parts) == 3 && len(c.Token) < 4<<10 {
			f.Add(decoded(parts[0]), decoded(parts[1]))
		}
	}
	f.Fuzz(func(t *testing.T, header, claims string) {
		signed := world.Sign(func(t *corpus.Token) { t.Header, t.Claims = header, claims })
		for _, token := range []string{signed, header + "." + claims, header} {
			got, err := svid.VerifyJWT(token, []string{"api"}, world.JWTBundles, svid.JWTOptions{Now: time.Now()})
			if err != nil {
				if got != nil || svid.ReasonOf(err) == "" {
					t.Fatalf("got %+v, error %v", got, err)
				}
				continue
			}
			if len(got.Warnings) > 0 {
				continue // an iat in the future is no reason for us (V-69), but for go-spiffe
			}
			theirs, err := jwtsvid.ParseAndValidate(token, world.JWTBundles, []string{"api"})
			if err != nil || theirs.ID != got.ID || !theirs.Expiry.Equal(got.Expiry.Truncate(time.Second)) {
				t.Fatalf("accepted as %s until %s; go-spiffe: %+v, %v", got.ID, got.Expiry, theirs, err)
			}
		}
	})
}

func decoded(part string) string {
	b, err := rawURL.DecodeString(part)
	if err != nil {
		return part
	}
	return string(b)
}
