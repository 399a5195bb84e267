package strict

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"
)

// Keys gives the elements of a JWK Set that Object has read: "keys" must be
// there and a list of objects (RFC 7517 section 5); it may be empty.
func Keys(set map[string]any) ([]map[string]any, error) {
	list, ok := set["keys"].([]any)
	if !ok {
		return nil, fmt.Errorf("keys is %v, not a list", set["keys"])
	}
	keys := make([]map[string]any, len(list))
	for i, each := range list {
		if keys[i], ok = each.(map[string]any); !ok {
			return nil, fmt.Errorf("element %d of keys is no object", i)
		}
	}
	return keys, nil
}

// KeyType gives kty, one of those that can sign a JWT-SVID.
func KeyType(jwk map[string]any) (string, error) {
	kty, ok := jwk["kty"].(string)
	if !ok || (kty != "EC" && kty != "RSA") {
		return "", fmt.Errorf("kty is %v; a JWT-SVID is signed by EC or RSA", jwk["kty"])
	}
	return kty, nil
}

// PublicKey reads a public key of type EC or RSA (RFC 7518 section 6).
func PublicKey(jwk map[string]any) (crypto.PublicKey, error) {
	kty, err := KeyType(jwk)
	if err != nil {
		return nil, err
	}
	for _, private := range []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"} {
		if _, there := jwk[private]; there {
			return nil, fmt.Errorf("has %q, a part of the private key", private)
		}
	}
	if kty == "EC" {
		return ecKey(jwk)
	}
	return rsaKey(jwk)
}

func ecKey(jwk map[string]any) (crypto.PublicKey, error) {
	curves := map[any]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}
	name, _ := jwk["crv"].(string)
	curve, ok := curves[name]
	if !ok {
		return nil, fmt.Errorf("crv is %v", jwk["crv"])
	}
	size := (curve.Params().BitSize + 7) / 8
	point := []byte{4} // uncompressed
	for _, coordinate := range []string{"x", "y"} {
		raw, err := member(jwk, coordinate)
		if err != nil {
			return nil, err
		}
		if len(raw) != size {
			return nil, fmt.Errorf("%s has %d bytes; on %s it has %d", coordinate, len(raw), name, size)
		}
		point = append(point, raw...)
	}
	key, err := ecdsa.ParseUncompressedPublicKey(curve, point)
	if err != nil {
		return nil, fmt.Errorf("is no point of %s: %w", name, err)
	}
	return key, nil
}

func rsaKey(jwk map[string]any) (crypto.PublicKey, error) {
	n, err := member(jwk, "n")
	if err != nil {
		return nil, err
	}
	e, err := member(jwk, "e")
	if err != nil {
		return nil, err
	}
	if len(n) < 256 || len(e) > 4 || unsigned(e).Int64() < 3 {
		return nil, errors.New("the RSA key is shorter than 2048 bits, or its exponent is not between 3 and 2^32")
	}
	return &rsa.PublicKey{N: unsigned(n), E: int(unsigned(e).Int64())}, nil
}

func member(jwk map[string]any, name string) ([]byte, error) {
	text, ok := jwk[name].(string)
	if !ok || text == "" {
		return nil, fmt.Errorf("%s is missing", name)
	}
	raw, err := Base64(text)
	if err != nil {
		return nil, fmt.Errorf("%s %w", name, err)
	}
	return raw, nil
}
