package corpus

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"time"
)

// Template is a certificate before it is signed. Every field is raw DER, so
// that it can be wrong in any way.
type Template struct {
	Serial     []byte // content octets
	Algorithm  []byte // AlgorithmIdentifier inside; nil means the one that fits the issuer's key
	Outside    []byte // AlgorithmIdentifier outside; nil means the same as inside
	Issuer     []byte // Name; nil means the issuer's
	Validity   []byte // the two times
	Subject    []byte // Name
	SPKI       []byte
	Extensions []Extension

	// Signed changes the TBSCertificate just before it is signed; nil leaves it.
	Signed func(tbs []byte) []byte

	hash  crypto.Hash         // for the signature; 0 means SHA-256
	after func([]byte) []byte // changes the finished certificate
}

// Extension is one extension of a Template.
type Extension struct {
	OID      string // encoded, with tag
	Critical bool
	Value    []byte // the DER inside the octet string
}

// Object identifiers of the extensions, encoded with their tag.
const (
	SubjectKeyID      = "\x06\x03\x55\x1d\x0e"
	KeyUsage          = "\x06\x03\x55\x1d\x0f"
	SAN               = "\x06\x03\x55\x1d\x11"
	BasicConstraints  = "\x06\x03\x55\x1d\x13"
	NameConstraints   = "\x06\x03\x55\x1d\x1e"
	Policies          = "\x06\x03\x55\x1d\x20"
	PolicyMappings    = "\x06\x03\x55\x1d\x21"
	AuthorityKeyID    = "\x06\x03\x55\x1d\x23"
	PolicyConstraints = "\x06\x03\x55\x1d\x24"
	ExtKeyUsage       = "\x06\x03\x55\x1d\x25"
	Unknown           = "\x06\x08\x2b\x06\x01\x04\x01\x86\x8d\x1f" // 1.3.6.1.4.1.99999
)

// Set adds an extension, or replaces the one with its identifier in place.
func (t *Template) Set(id string, critical bool, value []byte) {
	e := Extension{OID: id, Critical: critical, Value: value}
	for i := range t.Extensions {
		if t.Extensions[i].OID == id {
			t.Extensions[i] = e
			return
		}
	}
	t.Extensions = append(t.Extensions, e)
}

// Drop removes the extension with the identifier.
func (t *Template) Drop(id string) {
	var kept []Extension
	for _, e := range t.Extensions {
		if e.OID != id {
			kept = append(kept, e)
		}
	}
	t.Extensions = kept
}

// URIs makes the subject alternative name hold exactly these URIs, raw.
func (t *Template) URIs(texts ...string) {
	var names [][]byte
	for _, text := range texts {
		names = append(names, uri(text))
	}
	t.names(names...)
}

func (t *Template) names(names ...[]byte) { t.Set(SAN, false, sequence(names...)) }

// Until sets the validity.
func (t *Template) Until(from, to time.Time) { t.Validity = period(from, to) }

func (t *Template) tbs() []byte {
	var list [][]byte
	for _, e := range t.Extensions {
		parts := [][]byte{[]byte(e.OID)}
		if e.Critical {
			parts = append(parts, boolean(true))
		}
		list = append(list, sequence(append(parts, octets(e.Value))...))
	}
	fields := [][]byte{
		tlv(0xa0, integer(2)), tlv(0x02, t.Serial), t.Algorithm,
		t.Issuer, sequence(t.Validity), t.Subject, t.SPKI,
	}
	if len(list) > 0 {
		fields = append(fields, tlv(0xa3, sequence(list...)))
	}
	return sequence(fields...)
}

// sign makes the certificate. It is an error only when the signer fails.
func (t Template) sign(by *Issuer) ([]byte, error) {
	if t.Issuer == nil {
		t.Issuer = by.Name
	}
	if t.hash == 0 {
		t.hash = crypto.SHA256
	}
	if t.Algorithm == nil {
		t.Algorithm = signatureAlgorithm(by.Key.Public(), t.hash)
	}
	if t.Outside == nil {
		t.Outside = t.Algorithm
	}
	tbs := t.tbs()
	if t.Signed != nil {
		tbs = t.Signed(tbs)
	}
	signature, err := signBytes(by.Key, t.hash, tbs)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	der := sequence(tbs, t.Outside, tlv(0x03, []byte{0}, signature))
	if t.after != nil {
		der = t.after(der)
	}
	return der, nil
}

func signBytes(key crypto.Signer, hash crypto.Hash, message []byte) ([]byte, error) {
	if _, ok := key.(ed25519.PrivateKey); ok {
		return key.Sign(rand.Reader, message, crypto.Hash(0))
	}
	h := hash.New()
	h.Write(message)
	return key.Sign(rand.Reader, h.Sum(nil), hash)
}

// signatureAlgorithm gives the AlgorithmIdentifier of a key and a hash.
func signatureAlgorithm(key crypto.PublicKey, hash crypto.Hash) []byte {
	switch key.(type) {
	case *rsa.PublicKey:
		arc := map[crypto.Hash]int{crypto.MD5: 4, crypto.SHA1: 5, crypto.SHA256: 11, crypto.SHA384: 12, crypto.SHA512: 13}[hash]
		return sequence(oid(1, 2, 840, 113549, 1, 1, arc), tlv(0x05))
	case ed25519.PublicKey:
		return sequence(oid(1, 3, 101, 112))
	}
	if hash == crypto.SHA1 {
		return sequence(oid(1, 2, 840, 10045, 4, 1))
	}
	arc := map[crypto.Hash]int{crypto.SHA256: 2, crypto.SHA384: 3, crypto.SHA512: 4}[hash]
	return sequence(oid(1, 2, 840, 10045, 4, 3, arc))
}

// spki encodes a public key; nil for a key that crypto/x509 can't encode.
func spki(key crypto.PublicKey) []byte {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil
	}
	return der
}

func keyID(spki []byte) []byte {
	sum := sha256.Sum256(spki)
	return sum[:20]
}

// ecdsaKey is the kind of key that everything has unless a row is about keys.
type ecdsaKey = *ecdsa.PrivateKey
