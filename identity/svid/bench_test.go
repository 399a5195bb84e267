package svid_test

import (
	"crypto/x509"
	"encoding/base64"
	"testing"

	"github.com/authsec-ai/icp/identity/svid"
)

// rawURL decodes what the corpus encodes.
var rawURL = base64.RawURLEncoding

// BenchmarkVerifyX509 is one handshake's worth: leaf and issuing authority, two
// ECDSA signatures. "floor" is what crypto/x509 takes for the same chain.
func BenchmarkVerifyX509(b *testing.B) {
	world := newWorld(b)
	chain, _ := world.SVID("spiffe://a.example/web")
	certs := []*x509.Certificate{parse(b, chain[0]), parse(b, chain[1])}
	options := svid.X509Options{Now: world.Now}
	b.Run("raw", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := svid.VerifyX509(chain, world.Bundles, options); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("parsed", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := svid.VerifyParsed(certs, world.Bundles, options); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("floor", func(b *testing.B) {
		roots, sent := x509.NewCertPool(), x509.NewCertPool()
		roots.AddCert(parse(b, world.A.Anchor.DER))
		sent.AddCert(certs[1])
		b.ReportAllocs()
		for b.Loop() {
			if _, err := certs[0].Verify(x509.VerifyOptions{
				Roots: roots, Intermediates: sent, CurrentTime: world.Now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
			}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("unknown-trust-domain", func(b *testing.B) {
		foreign, _ := world.SVID("spiffe://c.example/web")
		b.ReportAllocs()
		for b.Loop() {
			if _, err := svid.VerifyX509(foreign, world.Bundles, options); svid.ReasonOf(err) != svid.UnknownDomain {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkVerifyJWT is one request's worth: an ES256 token.
func BenchmarkVerifyJWT(b *testing.B) {
	world := newWorld(b)
	token, audience, options := world.Sign(nil), []string{"api"}, svid.JWTOptions{Now: world.Now}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := svid.VerifyJWT(token, audience, world.JWTBundles, options); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLintLeaf(b *testing.B) {
	world := newWorld(b)
	chain, _ := world.SVID("spiffe://a.example/web")
	b.ReportAllocs()
	for b.Loop() {
		if err := svid.LintLeaf(chain[0]); err != nil {
			b.Fatal(err)
		}
	}
}
