package svid

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	_ "crypto/sha256" // registers SHA-256
	_ "crypto/sha512" // registers SHA-384 and SHA-512
	"errors"
	"math/big"
)

// algorithm is a JWS signature algorithm (RFC 7518 section 3.1).
type algorithm struct {
	family family
	hash   crypto.Hash
}

type family int

const (
	pkcs1      family = iota // RSASSA-PKCS1-v1_5
	pss                      // RSASSA-PSS, salt as long as the hash
	curveBound               // ECDSA over the curve that goes with the hash, r‖s
)

// findAlgorithm knows the nine names of JWT-SVID section 2.1, exactly.
func findAlgorithm(name string) (algorithm, bool) {
	switch name {
	case "RS256":
		return algorithm{pkcs1, crypto.SHA256}, true
	case "RS384":
		return algorithm{pkcs1, crypto.SHA384}, true
	case "RS512":
		return algorithm{pkcs1, crypto.SHA512}, true
	case "PS256":
		return algorithm{pss, crypto.SHA256}, true
	case "PS384":
		return algorithm{pss, crypto.SHA384}, true
	case "PS512":
		return algorithm{pss, crypto.SHA512}, true
	case "ES256":
		return algorithm{curveBound, crypto.SHA256}, true
	case "ES384":
		return algorithm{curveBound, crypto.SHA384}, true
	case "ES512":
		return algorithm{curveBound, crypto.SHA512}, true
	}
	return algorithm{}, false
}

var (
	errKeyKind   = errors.New("the key is not of the kind that alg asks for")
	errSignature = errors.New("the signature does not verify")
)

// verify checks a signature over signed. The key must be of the algorithm's
// type and, for ECDSA, curve: a token never chooses how a key is used.
func (a algorithm) verify(key crypto.PublicKey, signed string, signature []byte) error {
	h := a.hash.New()
	h.Write([]byte(signed))
	digest := h.Sum(nil)
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		return a.verifyECDSA(key, digest, signature)
	case *rsa.PublicKey:
		return a.verifyRSA(key, digest, signature)
	}
	return errKeyKind
}

func (a algorithm) verifyRSA(key *rsa.PublicKey, digest, signature []byte) error {
	var err error
	switch a.family {
	case pkcs1:
		err = rsa.VerifyPKCS1v15(key, a.hash, digest, signature)
	case pss:
		err = rsa.VerifyPSS(key, a.hash, digest, signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
	default:
		return errKeyKind
	}
	if err != nil {
		return errSignature
	}
	return nil
}

func (a algorithm) verifyECDSA(key *ecdsa.PublicKey, digest, signature []byte) error {
	if a.family != curveBound || key.Curve != a.curve() {
		return errKeyKind
	}
	size := (key.Params().BitSize + 7) / 8
	if len(signature) != 2*size {
		return errSignature
	}
	r, s := new(big.Int).SetBytes(signature[:size]), new(big.Int).SetBytes(signature[size:])
	if !ecdsa.Verify(key, digest, r, s) {
		return errSignature
	}
	return nil
}

// curve gives the curve that an ECDSA algorithm is bound to.
func (a algorithm) curve() elliptic.Curve {
	switch a.hash {
	case crypto.SHA384:
		return elliptic.P384()
	case crypto.SHA512:
		return elliptic.P521()
	}
	return elliptic.P256()
}
