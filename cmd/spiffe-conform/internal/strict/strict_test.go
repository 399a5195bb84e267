package strict

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"
)

func TestID(t *testing.T) {
	for _, good := range []string{
		"spiffe://td", "spiffe://td/a", "spiffe://10.0.0.1/a_b/C-d", "spiffe://-/...", "spiffe://td/.a/a.",
		"spiffe://td/" + strings.Repeat("a", 2048-12), "spiffe://" + strings.Repeat("t", 255) + "/a",
	} {
		if _, _, err := ID(good); err != nil {
			t.Errorf("%s is refused: %v", clip(good), err)
		}
	}
	for _, bad := range []string{
		"", "spiffe:td/a", "https://td/a", "SPIFFE://td/a", "spiffe:///a", "spiffe://td/", "spiffe://td//a", "spiffe://td/a/",
		"spiffe://td/./a", "spiffe://td/..", "spiffe://TD/a", "spiffe://td:1/a", "spiffe://u@td/a", "spiffe://td/a?x", "spiffe://td/a#x",
		"spiffe://td/%61", "spiffe://td/é", "spiffe://t~d/a", "spiffe://td/" + strings.Repeat("a", 2048-11), "spiffe://" + strings.Repeat("t", 256) + "/a",
	} {
		if _, _, err := ID(bad); err == nil {
			t.Errorf("%s is accepted", clip(bad))
		}
	}
	if _, _, err := WorkloadID("spiffe://td"); err == nil {
		t.Error("a trust domain passes for a workload")
	}
	if td, path, err := WorkloadID("spiffe://td/a/b"); td != "td" || path != "/a/b" || err != nil {
		t.Errorf("it is taken apart as %q, %q, %v", td, path, err)
	}
}

func TestObject(t *testing.T) {
	if object, err := Object([]byte(`{"a":[1,{"a":"x"}],"A":null}`)); err != nil || len(object) != 2 {
		t.Errorf("a good object gives %v, %v", object, err)
	}
	for _, bad := range []string{
		``, `[]`, `"a"`, `null`, `{`, `{"a":1}{}`, `{"a":1} x`, `{"a":1,"a":2}`, `{"a":1,"\u0061":2}`, `{"b":{"a":1,"a":1}}`,
		"{\"a\":\"\xff\"}", strings.Repeat(`{"a":`, 100) + "1" + strings.Repeat("}", 100), "\ufeff{}",
	} {
		if _, err := Object([]byte(bad)); err == nil {
			t.Errorf("%.40q is accepted", bad)
		}
	}
}

func TestBase64(t *testing.T) {
	if raw, err := Base64("-_8"); err != nil || string(raw) != "\xfb\xff" {
		t.Errorf("it gives %x, %v", raw, err)
	}
	for _, bad := range []string{"-_8=", "+/8", "-_9", "-_\n8", "-", " -_8"} {
		if _, err := Base64(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func TestDER(t *testing.T) {
	key, cert := selfSigned(t)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := PrivateKey(der); err != nil {
		t.Errorf("a good key: %v", err)
	}
	for name, bad := range map[string][]byte{
		"nothing": nil, "a byte more": append(der[:len(der):len(der)], 0), "SEC 1": sec1,
		"PEM": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
	} {
		if _, err := PrivateKey(bad); err == nil {
			t.Errorf("as a key, %s is accepted", name)
		}
	}
	if certs, err := Certificates(append(cert[:len(cert):len(cert)], cert...)); err != nil || len(certs) != 2 {
		t.Errorf("two good certificates give %d, %v", len(certs), err)
	}
	for name, bad := range map[string][]byte{
		"nothing": nil, "a byte more": append(cert[:len(cert):len(cert)], 0), "a byte less": cert[:len(cert)-1],
		"PEM": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}),
	} {
		if _, err := Certificates(bad); err == nil {
			t.Errorf("as certificates, %s is accepted", name)
		}
	}
}

func selfSigned(t *testing.T) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return key, der
}

// TestVerify signs with each algorithm and verifies with each key: only the one
// pair may fit.
func TestVerify(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]crypto.Signer{"RSA": rsaKey}
	for name, curve := range map[string]elliptic.Curve{"ES256": elliptic.P256(), "ES384": elliptic.P384(), "ES512": elliptic.P521()} {
		if keys[name], err = ecdsa.GenerateKey(curve, rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	for alg := range algorithms {
		own := alg
		if alg[0] != 'E' {
			own = "RSA"
		}
		token := signed(t, alg, keys[own])
		for name, key := range keys {
			if err := token.Verify(key.Public()); (err == nil) != (name == own) {
				t.Errorf("%s with the key %s: %v", alg, name, err)
			}
		}
		token.signed += "x"
		if err := token.Verify(keys[own].Public()); err == nil {
			t.Errorf("%s: the signature fits another text", alg)
		}
	}
}

func signed(t *testing.T, alg string, key crypto.Signer) *Token {
	t.Helper()
	text := base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"alg":%q}`, alg)) + ".e30"
	how := algorithms[alg]
	hash := how.hash.New()
	hash.Write([]byte(text))
	digest := hash.Sum(nil)
	var signature []byte
	var err error
	switch key := key.(type) {
	case *ecdsa.PrivateKey:
		var r, s *big.Int
		if r, s, err = ecdsa.Sign(rand.Reader, key, digest); err == nil {
			size := (how.bits + 7) / 8
			signature = make([]byte, 2*size)
			r.FillBytes(signature[:size])
			s.FillBytes(signature[size:])
		}
	default:
		var options crypto.SignerOpts = how.hash
		if how.pss {
			options = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: how.hash}
		}
		signature, err = key.Sign(rand.Reader, digest, options)
	}
	if err != nil {
		t.Fatal(err)
	}
	token, err := DecodeToken(text + "." + base64.RawURLEncoding.EncodeToString(signature))
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestPublicKey(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	n := base64.RawURLEncoding.EncodeToString(rsaKey.N.Bytes())
	key, err := PublicKey(map[string]any{"kty": "RSA", "n": n, "e": "AQAB"})
	if err != nil || !rsaKey.PublicKey.Equal(key) {
		t.Errorf("a good RSA key gives %v", err)
	}
	for name, bad := range map[string]map[string]any{
		"no n": {"kty": "RSA", "e": "AQAB"}, "no e": {"kty": "RSA", "n": n}, "a short n": {"kty": "RSA", "n": "AQAB", "e": "AQAB"},
		"e of 1": {"kty": "RSA", "n": n, "e": "AQ"}, "a private key": {"kty": "RSA", "n": n, "e": "AQAB", "d": "AQAB"},
		"a shared secret": {"kty": "oct", "k": "AQAB"}, "kty in small letters": {"kty": "rsa", "n": n, "e": "AQAB"},
		"a short coordinate": {"kty": "EC", "crv": "P-256", "x": "AQAB", "y": "AQAB"},
	} {
		if _, err := PublicKey(bad); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func TestExpiry(t *testing.T) {
	for text, good := range map[string]bool{"1": true, "4102444800": true, "1.5": true, "-1": false, "1e400": false, "1e30": false} {
		token := &Token{Claims: map[string]any{"exp": json.Number(text)}}
		if _, err := token.Expiry(); (err == nil) != good {
			t.Errorf("exp %s: %v", text, err)
		}
	}
}
