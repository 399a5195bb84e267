package csr

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net"
	"net/url"
	"strings"
	"testing"

	"github.com/authsec-ai/icp/identity"
)

func ecKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func rsaKey(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	t.Setenv("GODEBUG", "rsa1024min=0")
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func requested(t testing.TB, tmpl x509.CertificateRequest, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &tmpl, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// accepted checks that der gives exactly the key.
func accepted(t *testing.T, der []byte, key crypto.Signer) {
	t.Helper()
	got, spki, err := Parse(der)
	if err != nil {
		t.Fatal(err)
	}
	want, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	if digest := sha256.Sum256(want); !bytes.Equal(spki, digest[:]) {
		t.Error("SPKI hash is not the key's")
	}
	if !got.(interface{ Equal(crypto.PublicKey) bool }).Equal(key.Public()) {
		t.Error("another key came back")
	}
}

func refused(t *testing.T, der []byte, reason string) {
	t.Helper()
	_, _, err := Parse(der)
	if err == nil || identity.CodeOf(err) != identity.Invalid || !strings.Contains(err.Error(), reason) {
		t.Fatalf("error is %v; want code %q and %q", err, identity.Invalid, reason)
	}
}

func TestNewAndParse(t *testing.T) {
	for name, key := range map[string]crypto.Signer{
		"P-256": ecKey(t, elliptic.P256()), "P-384": ecKey(t, elliptic.P384()), "RSA-2048": rsaKey(t, 2048),
	} {
		t.Run(name, func(t *testing.T) {
			der, err := New(key)
			if err != nil {
				t.Fatal(err)
			}
			accepted(t, der, key)
		})
	}
}

func TestT07(t *testing.T) {
	key := ecKey(t, elliptic.P256())
	garbage := pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: []byte("not a SAN at all")}
	many := make([]pkix.Extension, 10_000)
	for i := range many {
		many[i] = pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, i}, Value: []byte{5, 0}}
	}
	ca, err := asn1.Marshal(struct{ CA bool }{true})
	if err != nil {
		t.Fatal(err)
	}
	for name, tmpl := range map[string]x509.CertificateRequest{
		"names": {Subject: pkix.Name{CommonName: "postgres"}, DNSNames: []string{"db"}, IPAddresses: []net.IP{{127, 0, 0, 1}},
			URIs: []*url.URL{{Scheme: "spiffe", Host: "a", Path: "/x"}, {Scheme: "spiffe", Host: "b", Path: "/y"}}},
		"malformed SAN":         {ExtraExtensions: []pkix.Extension{garbage}},
		"basic constraints: CA": {ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: ca}}},
		"many extensions":       {ExtraExtensions: many[:200]},
	} {
		t.Run("T-07/twin/"+name+" are not looked at", func(t *testing.T) { accepted(t, requested(t, tmpl, key), key) })
	}
	t.Run("T-07/refused/too long to look at", func(t *testing.T) {
		refused(t, requested(t, x509.CertificateRequest{ExtraExtensions: many}, key), "the limit is 8192")
	})
}

func TestT08(t *testing.T) {
	twin := ecKey(t, elliptic.P256())
	good := requested(t, x509.CertificateRequest{}, twin)
	t.Run("T-08/twin", func(t *testing.T) { accepted(t, good, twin) })

	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		key    crypto.Signer
		reason string
	}{
		"P-224":    {ecKey(t, elliptic.P224()), "P-224"},
		"P-521":    {ecKey(t, elliptic.P521()), "P-521"},
		"Ed25519":  {edwards, "neither EC nor RSA"},
		"RSA-1024": {rsaKey(t, 1024), "1024 bits"},
	} {
		t.Run("T-08/refused/"+name, func(t *testing.T) { refused(t, requested(t, x509.CertificateRequest{}, c.key), c.reason) })
	}
	t.Run("T-08/refused/RSA over 4096 bits", func(t *testing.T) {
		refused(t, withKey(t, good, &rsa.PublicKey{N: new(big.Int).Add(new(big.Int).Lsh(big.NewInt(1), 8191), big.NewInt(1)), E: 65537}), "8192 bits")
	})
	t.Run("T-08/refused/RSA exponent 3", func(t *testing.T) {
		refused(t, withKey(t, good, &rsa.PublicKey{N: rsaKey(t, 2048).N, E: 3}), "exponent 3")
	})
	t.Run("T-08/refused/ROCA", func(t *testing.T) {
		refused(t, withKey(t, good, &rsa.PublicKey{N: rocaModulus(t), E: 65537}), "CVE-2017-15361")
	})
	t.Run("T-08/refused/signature of another key", func(t *testing.T) {
		refused(t, withKey(t, good, &ecKey(t, elliptic.P256()).PublicKey), "does not prove possession")
	})
	t.Run("T-08/refused/signature changed", func(t *testing.T) {
		bad := bytes.Clone(good)
		bad[len(bad)-1] ^= 1
		refused(t, bad, "does not prove possession")
	})
	t.Run("T-08/refused/weak signature", func(t *testing.T) {
		// ecdsa-with-SHA256 becomes ecdsa-with-SHA1.
		bad := bytes.Replace(good, []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02},
			[]byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01, 0x01}, 1)
		refused(t, bad, "not accepted")
	})
}

func TestMalformed(t *testing.T) {
	good, err := New(ecKey(t, elliptic.P256()))
	if err != nil {
		t.Fatal(err)
	}
	for name, der := range map[string][]byte{
		"nothing": nil, "text": []byte("-----BEGIN CERTIFICATE REQUEST-----"), "cut": good[:len(good)-1],
		"bytes after the end": append(bytes.Clone(good), 0), "version 1": bytes.Replace(good, []byte{2, 1, 0}, []byte{2, 1, 1}, 1),
	} {
		t.Run(name, func(t *testing.T) { refused(t, der, "not a PKCS #10") })
	}
}

// withKey puts another public key into a request, whose signature then is wrong.
func withKey(t *testing.T, der []byte, key crypto.PublicKey) []byte {
	t.Helper()
	old, err := x509.ParseCertificateRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	var outer struct {
		Info struct {
			Version    int
			Subject    asn1.RawValue
			SPKI       asn1.RawValue
			Attributes asn1.RawValue `asn1:"tag:0"`
		}
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}
	if _, err := asn1.Unmarshal(old.Raw, &outer); err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	outer.Info.SPKI = asn1.RawValue{FullBytes: spki}
	out, err := asn1.Marshal(outer)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// rocaModulus gives a modulus with the fingerprint: a power of 65537 modulo the
// product of the small primes.
func rocaModulus(t *testing.T) *big.Int {
	t.Helper()
	product := big.NewInt(1)
	for _, p := range fingerprintPrimes() {
		product.Mul(product, big.NewInt(p))
	}
	residue := new(big.Int).Exp(big.NewInt(65537), big.NewInt(123456789), product)
	n := new(big.Int).Lsh(product, uint(2047-product.BitLen()+1))
	n.Add(n, residue)
	if n.Bit(0) == 0 {
		n.Add(n, product)
	}
	return n
}

func FuzzParse(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	good, err := New(key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:40])
	f.Fuzz(func(t *testing.T, der []byte) {
		// Whatever is accepted, the library must find well signed too, unless it
		// stumbles over parts that Parse does not read.
		if _, _, err := Parse(der); err != nil {
			return
		}
		if req, err := x509.ParseCertificateRequest(der); err == nil && req.CheckSignature() != nil {
			t.Fatal("a request with a wrong signature was accepted")
		}
	})
}

func BenchmarkParse(b *testing.B) {
	der, err := New(ecKey(b, elliptic.P256()))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := Parse(der); err != nil {
			b.Fatal(err)
		}
	}
}
