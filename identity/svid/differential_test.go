package svid_test

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/authsec-ai/icp/identity/svid"
	"github.com/authsec-ai/icp/internal/corpus"
)

// others verifies a chain without the code under test: by crypto/x509, for both
// uses of an SVID, and by go-spiffe. It gives the first that refuses.
func others(chain [][]byte, bundles x509bundle.Source, now time.Time) error {
	certs, roots, err := parsed(chain, bundles)
	if err != nil {
		return err
	}
	sent := x509.NewCertPool()
	for _, cert := range certs[1:] {
		sent.AddCert(cert)
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if _, err := certs[0].Verify(x509.VerifyOptions{
			Roots: roots, Intermediates: sent, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage},
		}); err != nil {
			return err
		}
	}
	_, _, err = x509svid.Verify(certs, bundles, x509svid.WithTime(now))
	return err
}

// parsed gives the certificates, and the anchors of the leaf's trust domain.
func parsed(chain [][]byte, bundles x509bundle.Source) ([]*x509.Certificate, *x509.CertPool, error) {
	certs, err := x509.ParseCertificates(bytes.Join(chain, nil))
	if err != nil {
		return nil, nil, err
	}
	anchors, err := anchorsFor(certs[0], bundles)
	if err != nil {
		return nil, nil, err
	}
	roots := x509.NewCertPool()
	for _, anchor := range anchors {
		roots.AddCert(anchor)
	}
	return certs, roots, nil
}

func anchorsFor(leaf *x509.Certificate, bundles x509bundle.Source) ([]*x509.Certificate, error) {
	id, err := x509svid.IDFromCert(leaf)
	if err != nil {
		return nil, err
	}
	bundle, err := bundles.GetX509BundleForTrustDomain(id.TrustDomain())
	if err != nil {
		return nil, err
	}
	return bundle.X509Authorities(), nil
}

// flat gives every chain of the corpus, bad ones and twins.
func flat(cases []corpus.Case) []corpus.Case {
	var all []corpus.Case
	for _, c := range cases {
		all = append(all, c)
		if c.Twin != nil {
			all = append(all, *c.Twin)
		}
	}
	return all
}

// TestDifferential holds every chain of the corpus against the libraries: we
// accept nothing that they refuse. Skew is the one thing that they don't have.
func TestDifferential(t *testing.T) {
	accepted, laxer := 0, 0
	for _, c := range flat(x509Cases(t)) {
		_, ours := svid.VerifyX509(c.Chain, c.Bundles, c.Options)
		if c.Options.Skew != 0 || len(c.Chain) == 0 {
			continue
		}
		theirs := others(c.Chain, c.Bundles, c.Options.Now)
		switch {
		case ours == nil && theirs != nil:
			t.Errorf("%s/%s: accepted, but refused elsewhere: %v", c.Row, c.Name, theirs)
		case ours == nil:
			accepted++
		case theirs == nil:
			laxer++
		}
	}
	if accepted < 100 || laxer < 20 {
		t.Errorf("%d chains accepted by all, %d by the libraries alone: the corpus has shrunk", accepted, laxer)
	}
}

// TestDifferentialMutations does the same for certificates changed at random
// before they are signed, so that the signature is good and the rest is not.
func TestDifferentialMutations(t *testing.T) {
	const rounds = 2000
	world := newWorld(t)
	random := rand.New(rand.NewPCG(7, 11))
	mutate := func(tbs []byte) []byte { return mutated(random, tbs) }
	accepted, refused := 0, map[svid.Reason]int{}
	for round := range rounds {
		chain := mutatedChain(world, round%4 == 0, mutate)
		_, ours := svid.VerifyX509(chain, world.Bundles, svid.X509Options{Now: world.Now})
		if ours != nil {
			refused[svid.ReasonOf(ours)]++
			continue
		}
		accepted++
		if theirs := others(chain, world.Bundles, world.Now); theirs != nil {
			t.Fatalf("accepted, but refused elsewhere: %v\n%x", theirs, chain)
		}
	}
	if accepted < rounds/50 || len(refused) < 10 {
		t.Errorf("of %d chains %d were accepted, the others refused for %v: too narrow", rounds, accepted, refused)
	}
	if refused[""] != 0 {
		t.Errorf("%d chains were refused without a reason", refused[""])
	}
	noError(t, world)
}

func mutatedChain(world *corpus.World, issuerToo bool, mutate func([]byte) []byte) [][]byte {
	issuer := world.A.Issuing
	if issuerToo {
		der := world.CA(world.A.Anchor, "a.example issuing", world.A, func(t *corpus.Template) {
			t.SPKI = parseSPKI(issuer.DER)
			t.Signed = mutate
		}).DER
		issuer = &corpus.Issuer{Name: issuer.Name, Key: issuer.Key, DER: der}
		mutate = nil
	}
	return [][]byte{world.Leaf(issuer, func(t *corpus.Template) { t.Signed = mutate }), issuer.DER}
}

func parseSPKI(der []byte) []byte {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil
	}
	return cert.RawSubjectPublicKeyInfo
}

// mutated changes one to three places: a bit, a byte, or a piece that goes or
// comes twice.
func mutated(random *rand.Rand, tbs []byte) []byte {
	out := bytes.Clone(tbs)
	for range 1 + random.IntN(3) {
		at := random.IntN(len(out))
		end := min(len(out), at+1+random.IntN(8))
		switch random.IntN(6) {
		case 0, 1, 2:
			out[at] ^= 1 << random.IntN(8)
		case 3:
			out[at] = byte(random.IntN(256))
		case 4:
			out = slices.Delete(out, at, end)
		case 5:
			out = slices.Insert(out, at, bytes.Clone(out[at:end])...)
		}
		if len(out) == 0 {
			return tbs
		}
	}
	return out
}

// TestOpenSSL holds what we accept against `openssl verify`, which knows nothing
// of SPIFFE but path validation in its own way.
func TestOpenSSL(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Fatal("this test needs the program openssl; install the package openssl")
	}
	stricter := []string{
		"wrong-AKI", "wrong-SKI", // it passes by issuers whose key identifier is not the one wanted
		"expired-by-1s",                   // the twin ends now; RFC 5280 section 4.1.2.5 includes that second, OpenSSL does not
		"no-subject-and-SAN-not-critical", // X509-06 binds issuers; we let peers differ
	}
	compared := 0
	for _, c := range flat(x509Cases(t)) {
		if _, err := svid.VerifyX509(c.Chain, c.Bundles, c.Options); err != nil || c.Options.Skew != 0 || slices.Contains(stricter, c.Name) {
			continue
		}
		out, err := runOpenSSL(t, openssl, c)
		if err != nil {
			t.Errorf("%s/%s: accepted, but refused by OpenSSL: %v\n%s", c.Row, c.Name, err, out)
		}
		compared++
	}
	if compared < 100 {
		t.Errorf("only %d chains were compared", compared)
	}
}

func runOpenSSL(t *testing.T, openssl string, c corpus.Case) ([]byte, error) {
	t.Helper()
	anchors, err := anchorsFor(parse(t, c.Chain[0]), c.Bundles)
	if err != nil {
		t.Fatal(err)
	}
	var roots [][]byte
	for _, anchor := range anchors {
		roots = append(roots, anchor.Raw)
	}
	dir := t.TempDir()
	file := func(name string, certs ...[]byte) string {
		path := filepath.Join(dir, name)
		var text []byte
		for _, der := range certs {
			text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
		}
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	arguments := []string{
		"verify", "-x509_strict", "-no-CAstore", "-no-CApath", "-attime", strconv.FormatInt(c.Options.Now.Unix(), 10), "-CAfile", file("roots.pem", roots...),
	}
	if len(c.Chain) > 1 {
		arguments = append(arguments, "-untrusted", file("sent.pem", c.Chain[1:]...))
	}
	return exec.Command(openssl, append(arguments, file("leaf.pem", c.Chain[0]))...).CombinedOutput()
}

// TestJWTDifferential holds every token against go-spiffe: we accept nothing
// that it refuses. It takes the time from the clock, and has a minute's leeway.
func TestJWTDifferential(t *testing.T) {
	accepted, laxer := 0, 0
	for _, c := range tokenCases(t) {
		for _, token := range []*corpus.TokenCase{&c, c.Twin} {
			if token == nil || token.Options.Leeway != 0 {
				continue
			}
			got, ours := svid.VerifyJWT(token.Token, token.Audience, token.Bundles, token.Options)
			_, theirs := jwtsvid.ParseAndValidate(token.Token, token.Bundles, token.Audience)
			switch {
			case ours == nil && len(got.Warnings) > 0:
				// An iat in the future is no reason for us (V-69), but for go-spiffe.
			case ours == nil && theirs != nil:
				t.Errorf("%s/%s: accepted, but refused by go-spiffe: %v", c.Row, c.Name, theirs)
			case ours == nil:
				accepted++
			case theirs == nil:
				laxer++
			}
		}
	}
	if accepted < 100 || laxer < 10 {
		t.Errorf("%d tokens accepted by both, %d by go-spiffe alone: the corpus has shrunk", accepted, laxer)
	}
}

// VerifyParsed differs from VerifyX509 in nothing but who parsed.
func TestVerifyParsed(t *testing.T) {
	compared := 0
	for _, c := range flat(x509Cases(t)) {
		var certs []*x509.Certificate
		for _, der := range c.Chain {
			cert, err := x509.ParseCertificate(der)
			if err != nil {
				break
			}
			certs = append(certs, cert)
		}
		if len(certs) < len(c.Chain) {
			continue // crypto/tls would not have handed it over
		}
		compared++
		raw, rawErr := svid.VerifyX509(c.Chain, c.Bundles, c.Options)
		got, err := svid.VerifyParsed(certs, c.Bundles, c.Options)
		if svid.ReasonOf(err) != svid.ReasonOf(rawErr) || (raw == nil) != (got == nil) {
			t.Errorf("%s/%s: %v, but parsed %v", c.Row, c.Name, rawErr, err)
		}
		if got != nil && (got.ID != raw.ID || got.Serial != raw.Serial || !got.NotAfter.Equal(raw.NotAfter)) {
			t.Errorf("%s/%s: got %+v, want %+v", c.Row, c.Name, got, raw)
		}
	}
	if compared < 150 {
		t.Errorf("only %d chains were compared", compared)
	}
}
