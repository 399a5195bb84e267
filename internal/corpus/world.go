package corpus

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	_ "crypto/md5" // rows sign with it
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha1" // rows sign with it
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// World is two trust domains with everything that signs in them. A verifier
// under test trusts A, and knows B's bundle too.
type World struct {
	Now  time.Time // whole seconds; cases are valid or not at this instant
	A, B *Authority

	Bundles    *x509bundle.Set // A's and B's anchors
	JWTBundles *jwtbundle.Set  // A's and B's JWT keys

	// KeyURL stands in header parameters that name a place to fetch a key from.
	// A test sets it, before JWT, to a server that counts requests.
	KeyURL string

	leafKey ecdsaKey
	rsaKey  *rsa.PrivateKey // 2048 bits
	weakRSA *rsa.PrivateKey // 1024 bits
	jwtKeys map[string]crypto.Signer
	errs    []error // of the builder; reported by X509 and JWT through Err
}

// Authority is the signing side of one trust domain: a self-signed anchor and
// below it an issuing authority, which is sent in the chain.
type Authority struct {
	TrustDomain spiffeid.TrustDomain
	Anchor      *Issuer
	Issuing     *Issuer
}

// Issuer is a certificate with its key.
type Issuer struct {
	Name []byte // distinguished name, DER
	Key  crypto.Signer
	DER  []byte
}

// ID gives a workload ID in the trust domain; path begins with "/".
func (a *Authority) ID(path string) string { return a.TrustDomain.IDString() + path }

// Bundle gives the trust domain's X.509 bundle.
func (a *Authority) Bundle() (*x509bundle.Bundle, error) {
	return x509bundle.ParseRaw(a.TrustDomain, a.Anchor.DER)
}

// New builds a world whose good certificates are valid from an hour before to
// an hour after now.
func New(now time.Time) (*World, error) {
	w := &World{Now: now.UTC().Truncate(time.Second), KeyURL: "http://127.0.0.1:9/keys"}
	w.leafKey = w.newKey(elliptic.P256())
	w.rsaKey = w.newRSA(2048)
	w.weakRSA = w.newRSA(1024)
	w.A, w.B = w.newAuthority("a.example"), w.newAuthority("b.example")
	w.Bundles = x509bundle.NewSet()
	for _, a := range []*Authority{w.A, w.B} {
		bundle, err := a.Bundle()
		w.note(err)
		if err == nil {
			w.Bundles.Add(bundle)
		}
	}
	w.makeJWTKeys()
	return w, w.Err()
}

// Err gives what went wrong while something was built.
func (w *World) Err() error { return errors.Join(w.errs...) }

func (w *World) note(err error) {
	if err != nil {
		w.errs = append(w.errs, err)
	}
}

func (w *World) newKey(curve elliptic.Curve) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	w.note(err)
	return key
}

func (w *World) newRSA(size int) *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, size)
	w.note(err)
	return key
}

func (w *World) newAuthority(domain string) *Authority {
	td, err := spiffeid.TrustDomainFromString(domain)
	w.note(err)
	a := &Authority{TrustDomain: td}
	a.Anchor = w.CA(nil, domain+" anchor", a, func(t *Template) { t.Set(BasicConstraints, true, caConstraints(1)) })
	a.Issuing = w.CA(a.Anchor, domain+" issuing", a, nil)
	return a
}

// CA makes a CA certificate of a's trust domain; by nil makes it self-signed.
// Unless edit says otherwise its path length is 0.
func (w *World) CA(by *Issuer, common string, a *Authority, edit func(*Template)) *Issuer {
	return w.caWithKey(by, common, a, w.newKey(elliptic.P256()), edit)
}

func (w *World) caWithKey(by *Issuer, common string, a *Authority, key crypto.Signer, edit func(*Template)) *Issuer {
	ca := &Issuer{Name: name(common), Key: key}
	if by == nil {
		by = ca
	}
	t := w.base(ca.Name, key.Public(), by)
	t.URIs(a.TrustDomain.IDString())
	t.Set(BasicConstraints, true, caConstraints(0))
	t.Set(KeyUsage, true, bits(1, 0x06))
	if edit != nil {
		edit(&t)
	}
	ca.DER = w.sign(t, by)
	return ca
}

// base has what leaf and CA have in common.
func (w *World) base(subject []byte, key crypto.PublicKey, by *Issuer) Template {
	t := Template{
		Serial: w.serial(), Subject: subject, SPKI: spki(key),
		Validity: period(w.Now.Add(-time.Hour), w.Now.Add(time.Hour)),
	}
	t.Set(SubjectKeyID, false, octets(keyID(t.SPKI)))
	t.Set(AuthorityKeyID, false, sequence(tlv(0x80, keyID(spki(by.Key.Public())))))
	return t
}

func (w *World) serial() []byte {
	b := make([]byte, 16)
	_, err := rand.Read(b)
	w.note(err)
	b[0] = b[0]&0x3f | 0x40 // positive, and never a needless zero
	return b
}

func (w *World) sign(t Template, by *Issuer) []byte {
	der, err := t.sign(by)
	w.note(err)
	return der
}

// Leaf makes a workload's certificate, spiffe://a.example/web unless edit says
// otherwise. Its key is LeafKey unless edit sets another SPKI.
func (w *World) Leaf(by *Issuer, edit func(*Template)) []byte {
	t := w.base(name("workload"), w.leafKey.Public(), by)
	t.URIs(w.A.ID("/web"))
	t.Set(BasicConstraints, true, sequence())
	t.Set(KeyUsage, true, bits(7, 0x80))
	t.Set(ExtKeyUsage, false, sequence(serverAuth(), clientAuth()))
	if edit != nil {
		edit(&t)
	}
	return w.sign(t, by)
}

// LeafKey is the private key of every leaf whose row is not about keys.
func (w *World) LeafKey() crypto.Signer { return w.leafKey }

// SVID makes a good chain and key for an ID in trust domain A: what a proxy
// under test shows, or a client that must be let in.
func (w *World) SVID(id string) (chain [][]byte, key crypto.Signer) {
	leaf := w.Leaf(w.A.Issuing, func(t *Template) { t.URIs(id) })
	return [][]byte{leaf, w.A.Issuing.DER}, w.leafKey
}

func caConstraints(pathLength byte) []byte {
	return sequence(boolean(true), integer(pathLength))
}

func serverAuth() []byte { return oid(1, 3, 6, 1, 5, 5, 7, 3, 1) }
func clientAuth() []byte { return oid(1, 3, 6, 1, 5, 5, 7, 3, 2) }

// anchors gives a bundle source with one bundle, of a trust domain and roots.
func (w *World) anchors(td spiffeid.TrustDomain, roots ...[]byte) x509bundle.Source {
	bundle := x509bundle.New(td)
	for _, der := range roots {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			w.note(fmt.Errorf("parse anchor: %w", err))
			continue
		}
		bundle.AddX509Authority(cert)
	}
	return bundle
}
