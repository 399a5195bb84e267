// Package csr makes and reads certificate signing requests (PKCS #10, RFC 2986).
//
// A request carries two things that count: a public key, and a signature that
// proves possession of the private one. Parse looks at nothing else. Names and
// extensions in a request are not even decoded, so no mistake in handling them
// can put them into a certificate.
package csr

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	cryptobyteasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/authsec-ai/icp/identity"
)

// MaxBytes is the longest request that is looked at. One for an RSA key of
// 4096 bits takes less than 2 KiB.
const MaxBytes = 8 << 10

const (
	minRSABits  = 2048
	maxRSABits  = 4096
	rsaExponent = 65537
)

// New makes a request for key: an empty subject, no attributes, signed with
// SHA-256 (SHA-384 for P-384).
func New(key crypto.Signer) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate signing request: %w", err)
	}
	return der, nil
}

// Parse gives the public key of a request in DER and the SHA-256 of its
// SubjectPublicKeyInfo, after checking the proof of possession. It accepts
// P-256, P-384 and RSA keys of 2048 to 4096 bits. Errors are *identity.Error
// with code Invalid.
func Parse(der []byte) (key crypto.PublicKey, spki []byte, err error) {
	if len(der) > MaxBytes {
		return nil, nil, identity.Errorf(identity.Invalid, "signing request is %d bytes long; the limit is %d", len(der), MaxBytes)
	}
	req, ok := split(der)
	if !ok {
		return nil, nil, identity.Errorf(identity.Invalid, "signing request is not a PKCS #10 request in DER")
	}
	key, err = parseKey(req.spki)
	if err != nil {
		return nil, nil, err
	}
	if err := req.checkProof(key); err != nil {
		return nil, nil, err
	}
	digest := sha256.Sum256(req.spki)
	return key, digest[:], nil
}

// request is the outer structure of a CertificationRequest.
type request struct {
	signed    []byte // CertificationRequestInfo, what the signature covers
	spki      []byte // SubjectPublicKeyInfo
	algorithm asn1.ObjectIdentifier
	signature []byte
}

// split takes a CertificationRequest apart (RFC 2986 section 4). Subject and
// attributes are skipped unread.
func split(der []byte) (request, bool) {
	var req request
	var outer, info, spki, algorithm cryptobyte.String
	input := cryptobyte.String(der)
	ok := input.ReadASN1(&outer, cryptobyteasn1.SEQUENCE) && input.Empty() &&
		outer.ReadASN1Element(&info, cryptobyteasn1.SEQUENCE) &&
		outer.ReadASN1(&algorithm, cryptobyteasn1.SEQUENCE) &&
		algorithm.ReadASN1ObjectIdentifier(&req.algorithm) &&
		outer.ReadASN1BitStringAsBytes(&req.signature) && outer.Empty()
	if !ok {
		return request{}, false
	}
	req.signed = info
	var version int
	ok = info.ReadASN1(&info, cryptobyteasn1.SEQUENCE) &&
		info.ReadASN1Integer(&version) && version == 0 &&
		info.SkipASN1(cryptobyteasn1.SEQUENCE) && // subject
		info.ReadASN1Element(&spki, cryptobyteasn1.SEQUENCE)
	req.spki = spki
	return req, ok
}

// parseKey decodes a SubjectPublicKeyInfo and refuses keys that are too weak,
// too costly or of an unknown kind.
func parseKey(spki []byte) (crypto.PublicKey, error) {
	parsed, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return nil, identity.Errorf(identity.Invalid, "signing request has no readable public key")
	}
	switch key := parsed.(type) {
	case *ecdsa.PublicKey:
		if key.Curve == elliptic.P256() || key.Curve == elliptic.P384() {
			return key, nil
		}
		return nil, identity.Errorf(identity.Invalid, "EC key is on %s; use P-256 or P-384", key.Curve.Params().Name)
	case *rsa.PublicKey:
		return key, checkRSA(key)
	}
	return nil, identity.Errorf(identity.Invalid, "public key is neither EC nor RSA; use P-256, P-384 or RSA with 2048 to 4096 bits")
}

func checkRSA(key *rsa.PublicKey) error {
	if bits := key.N.BitLen(); bits < minRSABits || bits > maxRSABits {
		return identity.Errorf(identity.Invalid, "RSA key has %d bits; use %d to %d", bits, minRSABits, maxRSABits)
	}
	if key.E != rsaExponent {
		return identity.Errorf(identity.Invalid, "RSA key has exponent %d; use %d", key.E, rsaExponent)
	}
	if isROCA(key.N) {
		return identity.Errorf(identity.Invalid, "RSA key comes from a generator whose keys can be factored (CVE-2017-15361); make another one")
	}
	return nil
}

// checkProof verifies the request's signature with its own key.
func (r request) checkProof(key crypto.PublicKey) error {
	algorithm := signatureAlgorithm(r.algorithm)
	holder := x509.Certificate{PublicKey: key} // for its signature check alone
	if algorithm == x509.UnknownSignatureAlgorithm {
		return identity.Errorf(identity.Invalid, "signing request is signed with an algorithm that is not accepted; use ECDSA or RSA with SHA-256, SHA-384 or SHA-512")
	}
	if err := holder.CheckSignature(algorithm, r.signed, r.signature); err != nil {
		return identity.Errorf(identity.Invalid, "signing request does not prove possession of its key: the signature is wrong")
	}
	return nil
}

// signatureAlgorithm names the algorithms of RFC 5758 section 3.2 and RFC 8017
// appendix A.2.4 that are accepted as proof.
func signatureAlgorithm(oid asn1.ObjectIdentifier) x509.SignatureAlgorithm {
	switch oid.String() {
	case "1.2.840.10045.4.3.2":
		return x509.ECDSAWithSHA256
	case "1.2.840.10045.4.3.3":
		return x509.ECDSAWithSHA384
	case "1.2.840.10045.4.3.4":
		return x509.ECDSAWithSHA512
	case "1.2.840.113549.1.1.11":
		return x509.SHA256WithRSA
	case "1.2.840.113549.1.1.12":
		return x509.SHA384WithRSA
	case "1.2.840.113549.1.1.13":
		return x509.SHA512WithRSA
	}
	return x509.UnknownSignatureAlgorithm
}
