package strict

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	_ "crypto/sha256" // ES256, RS256, PS256
	_ "crypto/sha512" // the other six
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// maxToken bounds the tokens that are read at all, in bytes.
const maxToken = 16 << 10

// Token is a JWT-SVID in compact form. What its header and claims say is
// checked by the methods, one requirement each.
type Token struct {
	Header, Claims map[string]any

	signed    string
	signature []byte
}

// DecodeToken reads the compact form and nothing else (JWT-SVID section 5.1):
// three parts of canonical base64url, of which two are JSON objects.
func DecodeToken(compact string) (*Token, error) {
	if len(compact) > maxToken {
		return nil, fmt.Errorf("a token of %d bytes is longer than %d", len(compact), maxToken)
	}
	parts := strings.Split(compact, ".")
	if len(parts) != 3 {
		return nil, fmt.Errorf("has %d parts, not the 3 of a compact JWS", len(parts))
	}
	token := &Token{signed: parts[0] + "." + parts[1]}
	var err error
	if token.Header, err = objectPart(parts[0]); err != nil {
		return nil, fmt.Errorf("the header %w", err)
	}
	if token.Claims, err = objectPart(parts[1]); err != nil {
		return nil, fmt.Errorf("the payload %w", err)
	}
	if token.signature, err = Base64(parts[2]); err != nil {
		return nil, fmt.Errorf("the signature %w", err)
	}
	return token, nil
}

func objectPart(part string) (map[string]any, error) {
	raw, err := Base64(part)
	if err != nil {
		return nil, err
	}
	return Object(raw)
}

// OnlyKnownHeaders refuses any header but alg, kid and typ (JWT-SVID section 2).
func (t *Token) OnlyKnownHeaders() error {
	for name := range t.Header {
		if name != "alg" && name != "kid" && name != "typ" {
			return fmt.Errorf("the header has %q; only alg, kid and typ may be there", clip(name))
		}
	}
	return nil
}

// Algorithm gives alg, which is one of nine (JWT-SVID section 2.1).
func (t *Token) Algorithm() (string, error) {
	alg, ok := t.Header["alg"].(string)
	if _, known := algorithms[alg]; !ok || !known {
		return "", fmt.Errorf("alg is %v, which is none of the nine", t.Header["alg"])
	}
	return alg, nil
}

// KeyID gives kid. The specification lets it be absent, but common validators
// then refuse the token.
func (t *Token) KeyID() (string, error) {
	kid, ok := t.Header["kid"].(string)
	if !ok || kid == "" {
		return "", fmt.Errorf("kid is %v, so a validator can't tell the key", t.Header["kid"])
	}
	return kid, nil
}

// Type refuses a typ other than JWT and JOSE (JWT-SVID section 2.3).
func (t *Token) Type() error {
	if typ, there := t.Header["typ"]; there && typ != "JWT" && typ != "JOSE" {
		return fmt.Errorf("typ is %v; it may be absent, JWT or JOSE", typ)
	}
	return nil
}

// Subject gives sub, the ID of a workload (JWT-SVID section 3.1).
func (t *Token) Subject() (string, error) {
	sub, ok := t.Claims["sub"].(string)
	if !ok {
		return "", fmt.Errorf("sub is %v, which is no text", t.Claims["sub"])
	}
	if _, _, err := WorkloadID(sub); err != nil {
		return "", fmt.Errorf("sub: %w", err)
	}
	return sub, nil
}

// Audience gives aud, one value or a list, none of them empty (JWT-SVID section
// 3.2).
func (t *Token) Audience() ([]string, error) {
	var audience []string
	switch aud := t.Claims["aud"].(type) {
	case string:
		audience = []string{aud}
	case []any:
		for _, each := range aud {
			text, ok := each.(string)
			if !ok {
				return nil, fmt.Errorf("aud has %v, which is no text", each)
			}
			audience = append(audience, text)
		}
	default:
		return nil, fmt.Errorf("aud is %v, neither text nor a list", aud)
	}
	if len(audience) == 0 || slices.Contains(audience, "") {
		return nil, fmt.Errorf("aud is %q; it needs a value, and no empty one", audience)
	}
	return audience, nil
}

// Expiry gives exp (JWT-SVID section 3.3).
func (t *Token) Expiry() (time.Time, error) {
	number, ok := t.Claims["exp"].(json.Number)
	if !ok {
		return time.Time{}, fmt.Errorf("exp is %v, which is no number", t.Claims["exp"])
	}
	seconds, err := number.Float64()
	if err != nil || seconds < 0 || seconds > 1<<53 {
		return time.Time{}, fmt.Errorf("exp is %s, which is no time", clip(number.String()))
	}
	whole, fraction := math.Modf(seconds)
	return time.Unix(int64(whole), int64(fraction*1e9)), nil
}

// algorithm is one way of signing.
type algorithm struct {
	hash crypto.Hash
	bits int  // of the curve; 0 for RSA
	pss  bool // else PKCS #1 v1.5
}

var algorithms = map[string]algorithm{
	"RS256": {hash: crypto.SHA256}, "RS384": {hash: crypto.SHA384}, "RS512": {hash: crypto.SHA512},
	"PS256": {hash: crypto.SHA256, pss: true}, "PS384": {hash: crypto.SHA384, pss: true}, "PS512": {hash: crypto.SHA512, pss: true},
	"ES256": {hash: crypto.SHA256, bits: 256}, "ES384": {hash: crypto.SHA384, bits: 384}, "ES512": {hash: crypto.SHA512, bits: 521},
}

// Verify checks the signature. The algorithm must fit the key's type and curve.
func (t *Token) Verify(key crypto.PublicKey) error {
	name, err := t.Algorithm()
	if err != nil {
		return err
	}
	alg := algorithms[name]
	hash := alg.hash.New()
	hash.Write([]byte(t.signed))
	digest := hash.Sum(nil)
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		return t.verifyECDSA(key, name, alg, digest)
	case *rsa.PublicKey:
		return t.verifyRSA(key, name, alg, digest)
	}
	return fmt.Errorf("a key of type %T signs no JWT-SVID", key)
}

func (t *Token) verifyECDSA(key *ecdsa.PublicKey, name string, alg algorithm, digest []byte) error {
	if bits := key.Curve.Params().BitSize; alg.bits != bits {
		return fmt.Errorf("alg %s does not fit a key of %d bits", name, bits)
	}
	size := (alg.bits + 7) / 8
	if len(t.signature) != 2*size {
		return fmt.Errorf("a signature of %d bytes is not that of %s", len(t.signature), name)
	}
	if !ecdsa.Verify(key, digest, unsigned(t.signature[:size]), unsigned(t.signature[size:])) {
		return errors.New("the signature is wrong")
	}
	return nil
}

func (t *Token) verifyRSA(key *rsa.PublicKey, name string, alg algorithm, digest []byte) error {
	var err error
	switch {
	case alg.bits != 0:
		return fmt.Errorf("alg %s does not fit an RSA key", name)
	case alg.pss:
		err = rsa.VerifyPSS(key, alg.hash, digest, t.signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
	default:
		err = rsa.VerifyPKCS1v15(key, alg.hash, digest, t.signature)
	}
	if err != nil {
		return fmt.Errorf("the signature is wrong: %w", err)
	}
	return nil
}
