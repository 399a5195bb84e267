package svid_test

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/authsec-ai/icp/identity/svid"
	"github.com/authsec-ai/icp/internal/corpus"
)

// asked is a bundle source that notes what it is asked for.
type asked struct {
	x509bundle.Source
	domains []string
}

func (a *asked) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	a.domains = append(a.domains, td.Name())
	return a.Source.GetX509BundleForTrustDomain(td)
}

// TestReasonOrder takes a chain that breaks every rule and mends one after the
// other: the reasons come in the order of X509-23, and before the ID is known
// no bundle is asked for.
func TestReasonOrder(t *testing.T) {
	world := newWorld(t)
	order := []svid.Reason{
		svid.TooLarge, svid.Malformed, svid.BadSAN, svid.ManyURIs, "id-fragment", svid.WeakKey, svid.LeafSignsCerts,
		svid.UnknownDomain, svid.Untrusted, svid.Expired, svid.CAIDPath, svid.RevokedSVID, "",
	}
	for mended, want := range order {
		t.Run(fmt.Sprintf("X509-23/%02d-%s", mended, want), func(t *testing.T) {
			chain, revoked := brokenChain(world, order, mended)
			source := &asked{Source: world.Bundles}
			_, err := svid.VerifyX509(chain, source, svid.X509Options{Now: world.Now, Revoked: revoked})
			if svid.ReasonOf(err) != want {
				t.Errorf("got %v, want reason %q", err, want)
			}
			if early := mended < slices.Index(order, svid.UnknownDomain); early != (len(source.domains) == 0) {
				t.Errorf("the source was asked for %q", source.domains)
			}
		})
	}
	noError(t, world)
}

// brokenChain breaks the rules of order from the mended-th on.
func brokenChain(world *corpus.World, order []svid.Reason, mended int) ([][]byte, svid.Revoked) {
	broken := func(r svid.Reason) bool { return slices.Index(order, r) >= mended }
	withPath := world.CA(world.A.Anchor, "with path", world.A, func(t *corpus.Template) { t.URIs("spiffe://a.example/ca") })
	issuer := world.A.Issuing
	if broken(svid.CAIDPath) {
		issuer = withPath
	}
	if broken(svid.Untrusted) {
		issuer = world.B.Issuing
	}
	leaf := world.Leaf(issuer, func(t *corpus.Template) { breakLeaf(world, t, broken) })
	if broken(svid.Malformed) {
		leaf = append(leaf, 0)
	}
	chain := [][]byte{leaf, issuer.DER}
	if broken(svid.TooLarge) {
		chain = append(chain, slices.Repeat([][]byte{issuer.DER}, 8)...)
	}
	return chain, func(spiffeid.ID, string) bool { return broken(svid.RevokedSVID) }
}

func breakLeaf(world *corpus.World, t *corpus.Template, broken func(svid.Reason) bool) {
	id := "spiffe://a.example/web"
	if broken(svid.UnknownDomain) {
		id = "spiffe://c.example/web"
	}
	if broken("id-fragment") {
		id += "#"
	}
	t.URIs(id)
	if broken(svid.ManyURIs) {
		t.URIs(id, id)
	}
	if broken(svid.BadSAN) {
		t.Set(corpus.SAN, false, []byte{0x30, 0x00})
	}
	if broken(svid.WeakKey) {
		t.SPKI = bytes.Replace(t.SPKI, []byte{0xce, 0x3d, 0x03, 0x01, 0x07}, []byte{0xce, 0x3d, 0x03, 0x01, 0x06}, 1)
	}
	if broken(svid.LeafSignsCerts) {
		t.Set(corpus.KeyUsage, true, []byte{0x03, 0x02, 0x02, 0x84})
	}
	if broken(svid.Expired) {
		t.Until(world.Now.Add(-time.Hour), world.Now.Add(-time.Minute))
	}
}

// ID-23: the ID is inside the signed bytes, and read from nowhere else.
func TestSignedID(t *testing.T) {
	world := newWorld(t)
	chain, _ := world.SVID("spiffe://a.example/web")
	options := svid.X509Options{Now: world.Now}
	t.Run("ID-23/refused/certificate", func(t *testing.T) {
		forged := [][]byte{bytes.Replace(chain[0], []byte("example/web"), []byte("example/adm"), 1), chain[1]}
		if _, err := svid.VerifyX509(forged, world.Bundles, options); svid.ReasonOf(err) != svid.BadSignature {
			t.Errorf("an ID changed after the signature: %v", err)
		}
	})
	t.Run("ID-23/twin/certificate", func(t *testing.T) {
		if _, err := svid.VerifyX509(chain, world.Bundles, options); err != nil {
			t.Error(err)
		}
	})
	t.Run("ID-23/refused/token", func(t *testing.T) {
		parts := strings.Split(world.Sign(nil), ".")
		other := strings.Split(world.Sign(func(t *corpus.Token) { t.Claims = strings.Replace(t.Claims, "/web", "/adm", 1) }), ".")
		forged := parts[0] + "." + other[1] + "." + parts[2]
		if _, err := svid.VerifyJWT(forged, []string{"api"}, world.JWTBundles, svid.JWTOptions{Now: world.Now}); svid.ReasonOf(err) != svid.BadSignature {
			t.Errorf("a sub changed after the signature: %v", err)
		}
	})
	t.Run("ID-23/refused/sub-in-header", func(t *testing.T) {
		token := world.Sign(func(t *corpus.Token) {
			t.Header = `{"alg":"ES256","kid":"a-es256","sub":"spiffe://a.example/web"}`
			t.Claims = strings.Replace(t.Claims, `"sub"`, `"not-sub"`, 1)
		})
		if _, err := svid.VerifyJWT(token, []string{"api"}, world.JWTBundles, svid.JWTOptions{Now: world.Now}); err == nil {
			t.Error("an ID in the header was read")
		}
	})
	noError(t, world)
}

// ID-24: only documents with a defined form count.
func TestOtherDocuments(t *testing.T) {
	world := newWorld(t)
	key, err := x509.MarshalPKIXPublicKey(world.LeafKey().Public())
	if err != nil {
		t.Fatal(err)
	}
	for name, document := range map[string][]byte{
		"public-key": key, "SSH-certificate": []byte("\x00\x00\x00\x28ecdsa-sha2-nistp256-cert-v01@openssh.com"), "empty": {}, "text": []byte("spiffe://a.example/web"),
	} {
		t.Run("ID-24/refused/"+name, func(t *testing.T) {
			if _, err := svid.VerifyX509([][]byte{document, world.A.Issuing.DER}, world.Bundles, svid.X509Options{Now: world.Now}); svid.ReasonOf(err) != svid.Malformed {
				t.Error(err)
			}
		})
	}
	for name, token := range map[string]string{
		"PASETO": "v4.public.eyJzdWIiOiJzcGlmZmU6Ly9hLmV4YW1wbGUvd2ViIn0", "ID": "spiffe://a.example/web", "macaroon": "MDAyMWxvY2F0aW9uIGEuZXhhbXBsZQ",
	} {
		t.Run("ID-24/refused/"+name, func(t *testing.T) {
			if _, err := svid.VerifyJWT(token, []string{"api"}, world.JWTBundles, svid.JWTOptions{Now: world.Now}); err == nil {
				t.Error("accepted")
			}
		})
	}
}

// ID-25: claims are handed over beside the ID of who said them; nothing of them
// becomes the ID.
func TestForeignClaims(t *testing.T) {
	world := newWorld(t)
	bundle, err := world.JWTBundles.GetJWTBundleForTrustDomain(world.B.TrustDomain)
	if err != nil {
		t.Fatal(err)
	}
	const more = `,"role":"admin","iss":"spiffe://a.example","n":9007199254740993,"spiffe_id":"spiffe://a.example/admin"`
	token := world.Sign(func(t *corpus.Token) { t.Claims = strings.Replace(t.Claims, `}`, more+`}`, 1) })
	if _, err := svid.VerifyJWT(token, []string{"api"}, bundle, svid.JWTOptions{Now: world.Now}); svid.ReasonOf(err) != svid.UnknownDomain {
		t.Errorf("the bundle of B alone: %v", err)
	}
	got, err := svid.VerifyJWT(token, []string{"api"}, world.JWTBundles, svid.JWTOptions{Now: world.Now})
	if err != nil {
		t.Fatal(err)
	}
	if got.ID.String() != "spiffe://a.example/web" || got.Claims["role"] != "admin" || got.Claims["n"] != json.Number("9007199254740993") {
		t.Errorf("got %+v", got)
	}
}

// What an accepted token says arrives as it was signed.
func TestJWTFields(t *testing.T) {
	world := newWorld(t)
	at := world.Now.Unix()
	token := world.Sign(func(t *corpus.Token) {
		t.Claims = fmt.Sprintf(`{"sub":"spiffe://a.example/web","aud":["x","api","x"],"exp":%d.5,"iat":%d,"jti":"j"}`, at+60, at+30)
	})
	got, err := svid.VerifyJWT(token, []string{"other", "api"}, world.JWTBundles, svid.JWTOptions{Now: world.Now})
	if err != nil {
		t.Fatal(err)
	}
	want := svid.JWT{
		ID: got.ID, Audience: []string{"x", "api", "x"}, Expiry: time.Unix(at+60, 5e8), IssuedAt: time.Unix(at+30, 0),
		KeyID: corpus.KeyES256, JTI: "j", Claims: got.Claims, Warnings: []string{"iat is in the future"},
	}
	if fmt.Sprintf("%+v", *got) != fmt.Sprintf("%+v", want) {
		t.Errorf("got\n%+v, want\n%+v", *got, want)
	}
}

// V-59: a header that names a place to fetch a key from is refused, and nobody
// goes there.
func TestNothingIsFetched(t *testing.T) {
	var requests atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { requests.Add(1) }))
	defer server.Close()
	world := newWorld(t)
	world.KeyURL = server.URL
	for _, c := range world.JWT() {
		if c.Row == "V-59" {
			_, err := svid.VerifyJWT(c.Token, c.Audience, c.Bundles, c.Options)
			if svid.ReasonOf(err) != svid.HeaderParameter {
				t.Errorf("%s: %v", c.Name, err)
			}
		}
	}
	if n := requests.Load(); n != 0 {
		t.Errorf("the validator made %d requests", n)
	}
	noError(t, world)
}

// countingKeys is a JWT bundle source that counts how often it is asked.
type countingKeys struct {
	jwtbundle.Source
	asked int
}

func (c *countingKeys) GetJWTBundleForTrustDomain(td spiffeid.TrustDomain) (*jwtbundle.Bundle, error) {
	c.asked++
	return c.Source.GetJWTBundleForTrustDomain(td)
}

// V-62: a flood of unknown kids makes the validator ask what it has, once a
// token, and nothing more; there is no way for it to make anybody refresh.
func TestUnknownKeyFlood(t *testing.T) {
	world := newWorld(t)
	source := &countingKeys{Source: world.JWTBundles}
	const flood = 1000
	for i := range flood {
		token := world.Sign(func(t *corpus.Token) { t.Header = fmt.Sprintf(`{"alg":"ES256","kid":"k%d"}`, i) })
		if _, err := svid.VerifyJWT(token, []string{"api"}, source, svid.JWTOptions{Now: world.Now}); svid.ReasonOf(err) != svid.UnknownKey {
			t.Fatalf("V-62/refused: %v", err)
		}
	}
	if source.asked != flood {
		t.Errorf("the source was asked %d times for %d tokens", source.asked, flood)
	}
	if _, err := svid.VerifyJWT(world.Sign(nil), []string{"api"}, source, svid.JWTOptions{Now: world.Now}); err != nil {
		t.Errorf("V-62/twin: %v", err)
	}
}

// misled is a source that gives one bundle whatever it is asked for.
type misled struct {
	bundle *x509bundle.Bundle
	keys   *jwtbundle.Bundle
	err    error
}

func (m misled) GetX509BundleForTrustDomain(spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	return m.bundle, m.err
}

func (m misled) GetJWTBundleForTrustDomain(spiffeid.TrustDomain) (*jwtbundle.Bundle, error) {
	return m.keys, m.err
}

// TDB-09, TDB-12, X509-29, JWT-18: bundles that must not verify anything.
func TestBundles(t *testing.T) {
	world := newWorld(t)
	chain, _ := world.SVID("spiffe://a.example/web")
	token, td, other := world.Sign(nil), world.A.TrustDomain, world.B.TrustDomain
	anchor := parse(t, world.A.Anchor.DER)
	keys, err := world.JWTBundles.GetJWTBundleForTrustDomain(td)
	if err != nil {
		t.Fatal(err)
	}
	notCA := parse(t, world.CA(nil, "not a CA", world.A, func(t *corpus.Template) { t.Drop(corpus.BasicConstraints) }).DER)
	roots := func(td spiffeid.TrustDomain, certs ...*x509.Certificate) *x509bundle.Bundle {
		return x509bundle.FromX509Authorities(td, certs)
	}
	mislabelled := jwtbundle.FromJWTAuthorities(other, keys.JWTAuthorities())
	symmetric := jwtbundle.FromJWTAuthorities(td, map[string]crypto.PublicKey{corpus.KeyES256: []byte("secret")})
	for _, c := range []struct {
		name   string
		source misled
		x, j   svid.Reason
	}{
		{"good", misled{roots(td, anchor), keys, nil}, "", ""},
		{"of-another-trust-domain", misled{roots(other, anchor), mislabelled, nil}, svid.UnknownDomain, svid.UnknownDomain},
		{"nil", misled{}, svid.UnknownDomain, svid.UnknownDomain},
		{"error", misled{roots(td, anchor), keys, errors.New("gone")}, svid.UnknownDomain, svid.UnknownDomain},
		{"empty", misled{x509bundle.New(td), jwtbundle.New(td), nil}, svid.NoAuthorities, svid.NoAuthorities},
		{"of-no-use", misled{roots(td, notCA), symmetric, nil}, svid.NoAuthorities, svid.WeakKey},
		{"leaf-as-anchor", misled{roots(td, parse(t, chain[0])), keys, nil}, svid.NoAuthorities, ""},
		{"good-beside-bad", misled{roots(td, notCA, anchor), keys, nil}, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := svid.VerifyX509(chain, c.source, svid.X509Options{Now: world.Now})
			checkLint(t, err, c.x)
			_, err = svid.VerifyJWT(token, []string{"api"}, c.source, svid.JWTOptions{Now: world.Now})
			checkLint(t, err, c.j)
		})
	}
}

func parse(t testing.TB, der []byte) *x509.Certificate {
	t.Helper()
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// Options that make no sense accept nothing.
func TestOptions(t *testing.T) {
	world := newWorld(t)
	chain, _ := world.SVID("spiffe://a.example/web")
	for name, o := range map[string]svid.X509Options{
		"no-time": {}, "skew-over-30s": {Now: world.Now, Skew: 31 * time.Second}, "negative-skew": {Now: world.Now, Skew: -1},
	} {
		if _, err := svid.VerifyX509(chain, world.Bundles, o); svid.ReasonOf(err) != svid.BadOptions {
			t.Errorf("X.509, %s: %v", name, err)
		}
	}
	for name, o := range map[string]svid.JWTOptions{
		"no-time": {}, "leeway-over-60s": {Now: world.Now, Leeway: 61 * time.Second}, "negative-leeway": {Now: world.Now, Leeway: -1},
		"negative-age": {Now: world.Now, MaxAge: -1},
	} {
		if _, err := svid.VerifyJWT(world.Sign(nil), []string{"api"}, world.JWTBundles, o); svid.ReasonOf(err) != svid.BadOptions {
			t.Errorf("JWT, %s: %v", name, err)
		}
	}
	if _, err := svid.VerifyX509(chain, nil, svid.X509Options{Now: world.Now}); svid.ReasonOf(err) != svid.BadOptions {
		t.Errorf("X.509 without source: %v", err)
	}
	if _, err := svid.VerifyJWT(world.Sign(nil), []string{"api"}, nil, svid.JWTOptions{Now: world.Now}); svid.ReasonOf(err) != svid.BadOptions {
		t.Errorf("JWT without source: %v", err)
	}
}

// The result of an accepted chain: the earliest end of the whole path counts.
func TestX509Fields(t *testing.T) {
	world := newWorld(t)
	soon := world.Now.Add(10 * time.Minute)
	issuer := world.CA(world.A.Anchor, "ends soon", world.A, func(t *corpus.Template) { t.Until(world.Now.Add(-time.Hour), soon) })
	leaf := world.Leaf(issuer, func(t *corpus.Template) {
		t.Serial = []byte{0x0a, 0xbc, 0xde}
		t.Until(world.Now.Add(-10*time.Second), world.Now.Add(time.Hour))
	})
	got, err := svid.VerifyX509([][]byte{leaf, issuer.DER}, world.Bundles, svid.X509Options{Now: world.Now})
	if err != nil {
		t.Fatal(err)
	}
	if got.Serial != "abcde" || !got.NotAfter.Equal(soon) || got.Lifetime != time.Hour+10*time.Second || !bytes.Equal(got.Leaf.Raw, leaf) {
		t.Errorf("got %+v", got)
	}
	noError(t, world)
}

// The cheap door: what is too large costs no allocation beyond its refusal.
func TestTooLargeIsCheap(t *testing.T) {
	world := newWorld(t)
	token := strings.Repeat(".", 1<<20)
	huge := slices.Repeat([][]byte{make([]byte, 32<<10)}, 1000)
	for name, refuse := range map[string]func() error{
		"token": func() error {
			_, err := svid.VerifyJWT(token, []string{"api"}, world.JWTBundles, svid.JWTOptions{Now: world.Now})
			return err
		},
		"chain": func() error {
			_, err := svid.VerifyX509(huge, world.Bundles, svid.X509Options{Now: world.Now})
			return err
		},
	} {
		if err := refuse(); svid.ReasonOf(err) != svid.TooLarge {
			t.Errorf("%s: %v", name, err)
		}
		if n := testing.AllocsPerRun(10, func() { _ = refuse() }); n > 8 {
			t.Errorf("%s: refusing takes %v allocations", name, n)
		}
	}
}

// No hostile input keeps the validator busy. The rows ask for 10 ms of CPU; the
// limit here is generous, because tests share the machine.
func TestHostileInputIsCheap(t *testing.T) {
	const limit = 500 * time.Millisecond
	for _, c := range x509Cases(t) {
		if d := fastest(func() { _, _ = svid.VerifyX509(c.Chain, c.Bundles, c.Options) }); d > limit {
			t.Errorf("%s/%s took %s", c.Row, c.Name, d)
		}
	}
	for _, c := range tokenCases(t) {
		if d := fastest(func() { _, _ = svid.VerifyJWT(c.Token, c.Audience, c.Bundles, c.Options) }); d > limit {
			t.Errorf("%s/%s took %s", c.Row, c.Name, d)
		}
	}
}

func fastest(f func()) time.Duration {
	best := time.Hour
	for range 3 {
		start := time.Now()
		f()
		best = min(best, time.Since(start))
	}
	return best
}
