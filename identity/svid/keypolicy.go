package svid

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	casn1 "golang.org/x/crypto/cryptobyte/asn1"
)

const (
	oidRSA  = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01"
	oidEC   = "\x2a\x86\x48\xce\x3d\x02\x01"
	oidP256 = "\x2a\x86\x48\xce\x3d\x03\x01\x07"
	oidP384 = "\x2b\x81\x04\x00\x22"
	oidP521 = "\x2b\x81\x04\x00\x23"

	minRSABits     = 2048
	maxRSABits     = 8192
	minRSAExponent = 65537
)

// checkRawKey applies the key policy to a SubjectPublicKeyInfo before a library
// parses it: RSA, or ECDSA over one of three named curves. Ed25519 is left out
// because JWT-SVID has no place for it and old TLS stacks can't verify it.
func checkRawKey(spki cryptobyte.String) error {
	var alg, oid, curve cryptobyte.String
	if !spki.ReadASN1(&alg, casn1.SEQUENCE) || !alg.ReadASN1(&oid, casn1.OBJECT_IDENTIFIER) {
		return errors.New("its algorithm is malformed")
	}
	switch string(oid) {
	case oidRSA:
		return nil // size and exponent are checked on the parsed key
	case oidEC:
		if !alg.ReadASN1(&curve, casn1.OBJECT_IDENTIFIER) || !alg.Empty() {
			return errors.New("its curve is not a named one")
		}
		switch string(curve) {
		case oidP256, oidP384, oidP521:
			return nil
		}
		return errors.New("its curve is not P-256, P-384 or P-521")
	}
	return errors.New("it is neither RSA nor ECDSA")
}

// checkKey applies the key policy to a parsed key.
func checkKey(key crypto.PublicKey) error {
	switch key := key.(type) {
	case *rsa.PublicKey:
		return checkRSA(key)
	case *ecdsa.PublicKey:
		switch key.Curve {
		case elliptic.P256(), elliptic.P384(), elliptic.P521():
			return nil
		}
		return errors.New("its curve is not P-256, P-384 or P-521")
	}
	return errors.New("it is neither RSA nor ECDSA")
}

func checkRSA(key *rsa.PublicKey) error {
	if key.N == nil {
		return errors.New("its RSA modulus is missing")
	}
	switch bits := key.N.BitLen(); {
	case bits < minRSABits || bits > maxRSABits:
		return fmt.Errorf("RSA with %d bits; %d to %d are accepted", bits, minRSABits, maxRSABits)
	case key.N.Bit(0) == 0:
		return errors.New("its RSA modulus is even")
	case key.E < minRSAExponent || key.E%2 == 0:
		return fmt.Errorf("its RSA exponent is %d; it must be odd and at least %d", key.E, minRSAExponent)
	}
	return nil
}

// strongSignature reports whether alg is a signature by an accepted kind of key
// over SHA-256, SHA-384 or SHA-512.
func strongSignature(alg x509.SignatureAlgorithm) bool {
	switch alg {
	case x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA,
		x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS,
		x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512:
		return true
	}
	return false
}
