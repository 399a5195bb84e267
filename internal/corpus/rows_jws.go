package corpus

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"

	"github.com/authsec-ai/icp/identity/svid"
)

// algorithmCases are V-56 and V-57, and the nine algorithms that are accepted.
func (w *World) algorithmCases() []TokenCase {
	var cases []TokenCase
	for _, alg := range []string{`"none"`, `"None"`, `"NONE"`, `""`, `["ES256"]`, `256`, `null`, `"es256"`, `"EdDSA"`, `"ES256K"`, `"HS256"`} {
		head := fmt.Sprintf(`{"alg":%s,"kid":%q}`, alg, KeyES256)
		cases = append(cases, w.badToken("V-56", "alg-"+alg, svid.BadAlgorithm, setHeader(head)))
	}
	cases = append(cases,
		w.badToken("V-56", "alg-missing", svid.BadAlgorithm, setHeader(fmt.Sprintf(`{"kid":%q}`, KeyES256))),
		w.badToken("V-56", "none-and-no-signature", svid.BadAlgorithm, func(t *Token) {
			t.Header = header("none", KeyES256, "")
			t.signature = func(string) []byte { return nil }
		}))
	for alg, kid := range map[string]string{
		"ES256": KeyES256, "ES384": KeyES384, "ES512": KeyES512, "RS256": KeyRSA, "RS384": KeyRSA, "RS512": KeyRSA,
		"PS256": KeyRSA, "PS384": KeyRSA, "PS512": KeyRSA,
	} {
		cases = append(cases, acceptedToken("V-56", alg, w.token(w.signWith(alg, kid))))
	}
	return append(cases, w.hmacCases()...)
}

// hmacCases are V-57: a MAC keyed with what everybody knows of the public key.
func (w *World) hmacCases() []TokenCase {
	der := spki(w.rsaKey.Public())
	n := w.rsaKey.N.Bytes()
	secrets := map[string][]byte{
		"PEM": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), "DER": der, "modulus": n,
		"JWK": fmt.Appendf(nil, `{"kty":"RSA","n":%q,"e":"AQAB"}`, encode(n)),
	}
	var cases []TokenCase
	for name, secret := range secrets {
		cases = append(cases, w.badToken("V-57", "HS256-with-"+name, svid.BadAlgorithm, func(t *Token) {
			t.Header = header("HS256", KeyRSA, "")
			t.signature = func(signed string) []byte { return mac(secret, signed) }
		}))
	}
	return cases
}

// keyChoiceCases are V-58, V-61 and V-62: which key a token may name.
func (w *World) keyChoiceCases() []TokenCase {
	by := func(key crypto.Signer, kid string) func(*Token) {
		return func(t *Token) { t.Key, t.Header = key, header("ES256", kid, "") }
	}
	kid := func(text string) func(*Token) {
		return func(t *Token) { t.Header = fmt.Sprintf(`{"alg":"ES256","kid":%s}`, text) }
	}
	unknown := w.token(func(t *Token) { t.Claims = w.claims("spiffe://c.example/web", `"api"`, "") })
	ofB := w.token(func(t *Token) { t.Key, t.Claims = w.jwtKeys["b"], w.claims(w.B.ID("/web"), `"api"`, "") })
	ofB.ID = w.id(w.B.ID("/web"))
	return []TokenCase{
		w.badToken("V-58", "X.509-CA-key-under-JWT-kid", svid.BadSignature, by(w.A.Issuing.Key, KeyES256)),
		w.badToken("V-58", "X.509-CA-key-under-its-own-kid", svid.UnknownKey, by(w.A.Issuing.Key, "x509-authority")),
		w.badToken("V-58", "WIT-key", svid.UnknownKey, by(w.newKey(elliptic.P256()), "wit")),
		w.badToken("V-58", "key-of-B-with-the-same-kid", svid.BadSignature, by(w.jwtKeys["b"], KeyES256)),
		acceptedToken("V-58", "B-speaks-for-B", ofB),
		refusedToken("V-58", "unknown-trust-domain", svid.UnknownDomain, unknown, w.token(nil)),
		w.badToken("V-61", "missing", svid.BadKeyID, setHeader(`{"alg":"ES256"}`)),
		w.badToken("V-61", "empty", svid.BadKeyID, kid(`""`)),
		w.badToken("V-61", "number", svid.BadKeyID, kid(`7`)),
		w.badToken("V-61", "list", svid.BadKeyID, kid(`["`+KeyES256+`"]`)),
		w.badToken("V-61", "unknown", svid.UnknownKey, kid(`"nobody"`)),
		w.badToken("V-61", "path", svid.UnknownKey, kid(`"../../x"`)),
		w.badToken("V-61", "SQL", svid.UnknownKey, kid(`"' OR 1=1 --"`)),
		w.badToken("V-61", "case-flipped", svid.UnknownKey, kid(`"`+strings.ToUpper(KeyES256)+`"`)),
		w.badToken("V-61", "64-KiB", svid.TooLarge, kid(`"`+strings.Repeat("k", 64<<10)+`"`)),
	}
}

// headerCases are V-59, V-60 and V-63: what a header may say.
func (w *World) headerCases() []TokenCase {
	attacker := w.newKey(elliptic.P256())
	x, y := attacker.X.FillBytes(make([]byte, 32)), attacker.Y.FillBytes(make([]byte, 32))
	jwk := fmt.Sprintf(`{"kty":"EC","crv":"P-256","x":%q,"y":%q}`, encode(x), encode(y))
	by := func(more string) func(*Token) {
		return func(t *Token) { t.Key, t.Header = attacker, header("ES256", KeyES256, more) }
	}
	own := func(more string) func(*Token) {
		return setHeader(header("ES256", KeyES256, more))
	}
	typ := func(value string) TokenCase {
		return w.badToken("V-63", "typ-"+value, svid.BadType, own(`,"typ":`+value))
	}
	p := svid.HeaderParameter
	return []TokenCase{
		w.badToken("V-59", "jwk", p, by(`,"jwk":`+jwk)),
		w.badToken("V-59", "jku", p, by(fmt.Sprintf(`,"jku":%q`, w.KeyURL))),
		w.badToken("V-59", "x5u", p, by(fmt.Sprintf(`,"x5u":%q`, w.KeyURL))),
		w.badToken("V-59", "x5c", p, by(`,"x5c":["MIIB"]`)),
		w.badToken("V-60", "crit-exp", p, own(`,"crit":["exp"],"exp":1`)),
		w.badToken("V-60", "b64-false", p, own(`,"crit":["b64"],"b64":false`)),
		w.badToken("V-60", "crit-unknown", p, own(`,"crit":["x"],"x":1`)),
		w.badToken("V-60", "zip", p, own(`,"zip":"DEF"`)),
		w.badToken("V-60", "private-parameter", p, own(`,"https://a.example/x":1`)),
		typ(`"at+jwt"`), typ(`"wit+jwt"`), typ(`"jwt"`), typ(`1`), typ(`""`), typ(`null`),
		acceptedToken("V-63", "typ-absent", w.token(own(""))),
		acceptedToken("V-63", "typ-JOSE", w.token(own(`,"typ":"JOSE"`))),
	}
}

// jwsSignatureCases are V-64 and V-65, and keys that don't fit their algorithm.
func (w *World) jwsSignatureCases() []TokenCase {
	key := w.jwtKeys[KeyES256].(*ecdsa.PrivateKey)
	n := key.Params().N
	changed := func(f func(r, s *big.Int) []byte) func(*Token) {
		return func(t *Token) {
			t.signature = func(signed string) []byte {
				sig := w.jwsSignature(key, "ES256", signed)
				return f(new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:]))
			}
		}
	}
	highS := func(r, s *big.Int) []byte {
		if s.Cmp(new(big.Int).Rsh(n, 1)) < 0 {
			s = new(big.Int).Sub(n, s)
		}
		return pair(key, r, s)
	}
	zero, bad := new(big.Int), svid.BadSignature
	claimsToBe := func(alg, kid, sign, with string) func(*Token) {
		return func(t *Token) { t.Header, t.Alg, t.Key = header(alg, kid, ""), sign, w.jwtKeys[with] }
	}
	return append([]TokenCase{
		w.badToken("V-64", "too-short", bad, changed(func(r, s *big.Int) []byte { return pair(key, r, s)[:63] })),
		w.badToken("V-64", "too-long", bad, changed(func(r, s *big.Int) []byte { return append(pair(key, r, s), 0) })),
		w.badToken("V-64", "zero-between-r-and-s", bad, changed(func(r, s *big.Int) []byte {
			return append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 33))...)
		})),
		w.badToken("V-64", "DER", bad, changed(func(r, s *big.Int) []byte { return sequence(positive(r), positive(s)) })),
		w.badToken("V-64", "r-zero", bad, changed(func(_, s *big.Int) []byte { return pair(key, zero, s) })),
		w.badToken("V-64", "s-zero", bad, changed(func(r, _ *big.Int) []byte { return pair(key, r, zero) })),
		w.badToken("V-64", "both-zero", bad, changed(func(_, _ *big.Int) []byte { return make([]byte, 64) })),
		w.badToken("V-64", "r-is-order", bad, changed(func(_, s *big.Int) []byte { return pair(key, n, s) })),
		w.badToken("V-64", "empty", bad, changed(func(_, _ *big.Int) []byte { return nil })),
		acceptedToken("V-64", "high-s", w.token(changed(highS))),
		refusedToken("V-64", "P-384-under-ES256", svid.AlgorithmKey,
			w.token(claimsToBe("ES256", KeyES384, "ES256", KeyES384)), w.token(w.signWith("ES384", KeyES384))),
		refusedToken("V-64", "P-256-under-ES512", svid.AlgorithmKey,
			w.token(claimsToBe("ES512", KeyES256, "ES512", KeyES256)), w.token(w.signWith("ES512", KeyES512))),
		refusedToken("V-64", "RS256-with-EC-key", svid.AlgorithmKey,
			w.token(claimsToBe("RS256", KeyES256, "RS256", KeyRSA)), w.token(w.signWith("RS256", KeyRSA))),
		refusedToken("V-64", "ES256-with-RSA-key", svid.AlgorithmKey,
			w.token(claimsToBe("ES256", KeyRSA, "ES256", KeyES256)), w.token(nil)),
	}, w.rsaSignatureCases()...)
}

func (w *World) rsaSignatureCases() []TokenCase {
	signed := func(alg string, sign func(digest []byte) []byte) TokenCase {
		return w.token(func(t *Token) {
			t.Header = header(alg, KeyRSA, "")
			t.signature = func(text string) []byte {
				digest := sha256.Sum256([]byte(text))
				return sign(digest[:])
			}
		})
	}
	salted := func(length int) TokenCase {
		return signed("PS256", func(digest []byte) []byte {
			sig, err := rsa.SignPSS(rand.Reader, w.rsaKey, crypto.SHA256, digest, &rsa.PSSOptions{SaltLength: length})
			w.note(err)
			return sig
		})
	}
	forged := signed("RS256", func(digest []byte) []byte { return w.rawRSA(badPadding(digest, w.rsaKey.Size())) })
	empty := signed("RS256", func([]byte) []byte { return nil })
	rs256, ps256 := w.token(w.signWith("RS256", KeyRSA)), w.token(w.signWith("PS256", KeyRSA))
	swapped := w.token(func(t *Token) { t.Header, t.Alg, t.Key = header("PS256", KeyRSA, ""), "RS256", w.rsaKey })
	return []TokenCase{
		refusedToken("V-65", "forged-PKCS1-padding", svid.BadSignature, forged, rs256),
		refusedToken("V-65", "PS256-salt-0", svid.BadSignature, salted(0), ps256),
		refusedToken("V-65", "PS256-salt-20", svid.BadSignature, salted(20), ps256),
		refusedToken("V-65", "PS256-salt-64", svid.BadSignature, salted(64), ps256),
		refusedToken("V-65", "empty", svid.BadSignature, empty, rs256),
		refusedToken("V-65", "PKCS1-under-PS256", svid.BadSignature, swapped, ps256),
		refusedToken("V-65", "RSA-1024", svid.WeakKey, w.token(w.signWith("RS256", KeyWeak)), rs256),
	}
}

// badPadding is a PKCS #1 block with short padding and garbage after the digest,
// which a lax verifier takes.
func badPadding(digest []byte, size int) []byte {
	const digestInfo = "\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20"
	block := append([]byte("\x00\x01\xff\xff\xff\xff\xff\xff\xff\xff\x00"+digestInfo), digest...)
	return append(block, make([]byte, size-len(block))...)
}

// rawRSA applies the private key to a block, without padding of its own.
func (w *World) rawRSA(block []byte) []byte {
	m := new(big.Int).SetBytes(block)
	return m.Exp(m, w.rsaKey.D, w.rsaKey.N).FillBytes(make([]byte, w.rsaKey.Size()))
}
