package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	stdasn1 "encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/authsec-ai/icp/identity"
)

// leaf is all that goes into an X.509-SVID (X509-SVID sections 2 to 4). The
// rest of the certificate is the same for all leaves of an issuer.
type leaf struct {
	id        spiffeid.ID
	serial    []byte
	notBefore time.Time
	notAfter  time.Time
	dnsNames  []string // from the entry, never from a request
	key       crypto.PublicKey
}

// Encoded values that all leaves share.
const (
	oidPrefix = "\x55\x1d" // id-ce, 2.5.29

	extSubjectKeyID     = oidPrefix + "\x0e"
	extKeyUsage         = oidPrefix + "\x0f"
	extSAN              = oidPrefix + "\x11"
	extBasicConstraints = oidPrefix + "\x13"
	extAuthorityKeyID   = oidPrefix + "\x23"
	extExtKeyUsage      = oidPrefix + "\x25"

	digitalSignature = "\x03\x02\x07\x80" // BIT STRING, bit 0
	serverAndClient  = "\x30\x14\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x01\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x02"
	notCA            = "\x30\x00"
	ecdsaWithSHA256  = "\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02"
)

// encode writes the certificate and signs it with key, whose certificate is
// issuer. It is what x509.CreateCertificate would give, byte for byte, in less
// time; like that function it verifies its own signature.
func (l leaf) encode(issuer *x509.Certificate, key *ecdsa.PrivateKey) ([]byte, error) {
	tbs, err := l.toBeSigned(issuer)
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(tbs)
	signature, err := signVerified(key, digest)
	if err != nil {
		return nil, err
	}
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(tbs)
		b.AddBytes([]byte(ecdsaWithSHA256))
		b.AddASN1BitString(signature)
	})
	return b.Bytes()
}

// toBeSigned writes the TBSCertificate (RFC 5280 section 4.1.2).
func (l leaf) toBeSigned(issuer *x509.Certificate) ([]byte, error) {
	spki, err := x509.MarshalPKIXPublicKey(l.key)
	if err != nil {
		return nil, fmt.Errorf("encode the public key: %w", err)
	}
	subject, err := stdasn1.Marshal(nameOf(l.id.String()).ToRDNSequence())
	if err != nil {
		return nil, fmt.Errorf("encode the subject: %w", err)
	}
	if err := checkHostNames(l.dnsNames); err != nil {
		return nil, err
	}
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) { b.AddASN1Int64(2) }) // v3
		b.AddASN1BigInt(new(big.Int).SetBytes(l.serial))
		b.AddBytes([]byte(ecdsaWithSHA256))
		b.AddBytes(issuer.RawSubject)
		b.AddASN1(asn1.SEQUENCE, l.addValidity)
		b.AddBytes(subject)
		b.AddBytes(spki)
		b.AddASN1(asn1.Tag(3).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) { l.addExtensions(b, spki, issuer.SubjectKeyId) })
		})
	})
	return b.Bytes()
}

// addValidity writes both ends as RFC 5280 section 4.1.2.5 wants it: UTCTime
// until 2049, GeneralizedTime from then on.
func (l leaf) addValidity(b *cryptobyte.Builder) {
	for _, t := range []time.Time{l.notBefore, l.notAfter} {
		if t = t.UTC(); t.Year() >= 2050 {
			b.AddASN1GeneralizedTime(t)
		} else {
			b.AddASN1UTCTime(t)
		}
	}
}

func (l leaf) addExtensions(b *cryptobyte.Builder, spki, issuerKeyID []byte) {
	const critical = true
	addExtension(b, extKeyUsage, critical, func(b *cryptobyte.Builder) { b.AddBytes([]byte(digitalSignature)) })
	addExtension(b, extExtKeyUsage, !critical, func(b *cryptobyte.Builder) { b.AddBytes([]byte(serverAndClient)) })
	addExtension(b, extBasicConstraints, critical, func(b *cryptobyte.Builder) { b.AddBytes([]byte(notCA)) })
	addExtension(b, extSubjectKeyID, !critical, func(b *cryptobyte.Builder) { b.AddASN1OctetString(keyID(spki)) })
	addExtension(b, extAuthorityKeyID, !critical, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.Tag(0).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes(issuerKeyID) })
		})
	})
	addExtension(b, extSAN, !critical, l.addNames) // critical only without a subject
}

func addExtension(b *cryptobyte.Builder, oid string, critical bool, value cryptobyte.BuilderContinuation) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.OBJECT_IDENTIFIER, func(b *cryptobyte.Builder) { b.AddBytes([]byte(oid)) })
		if critical {
			b.AddASN1Boolean(true)
		}
		b.AddASN1(asn1.OCTET_STRING, value)
	})
}

// addNames writes the subject alternative name: the DNS names, then the one URI.
func (l leaf) addNames(b *cryptobyte.Builder) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, name := range l.dnsNames {
			b.AddASN1(asn1.Tag(2).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes([]byte(name)) })
		}
		b.AddASN1(asn1.Tag(6).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes([]byte(l.id.String())) })
	})
}

// checkHostNames refuses DNS names that are not plain lower-case host names (RFC
// 1123 section 2.1). A wildcard would let one workload stand for others.
func checkHostNames(names []string) error {
	for _, name := range names {
		if len(name) > 253 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-.") != "" {
			return identity.Errorf(identity.Invalid, "the entry's DNS name %q is not a lower-case host name", identity.Clip(name))
		}
		for label := range strings.SplitSeq(name, ".") {
			if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
				return identity.Errorf(identity.Invalid, "the entry's DNS name %q is not a host name", identity.Clip(name))
			}
		}
	}
	return nil
}

// signVerified signs a SHA-256 digest and verifies the signature, so that a
// fault in the computation neither leaves the CA nor gives the key away. The
// signature is deterministic (RFC 6979): equal input gives equal output.
func signVerified(key *ecdsa.PrivateKey, digest [sha256.Size]byte) ([]byte, error) {
	signature, err := key.Sign(nil, digest[:], crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	if !ecdsa.VerifyASN1(&key.PublicKey, digest[:], signature) {
		return nil, errors.New("sign: the signature does not verify")
	}
	return signature, nil
}
