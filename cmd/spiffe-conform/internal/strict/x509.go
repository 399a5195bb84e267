// Package strict reads SVIDs and bundles exactly as the SPIFFE specifications
// write them, and says of anything else what is wrong. It shares no code with
// any product, so that it can judge every product.
package strict

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
)

var (
	oidSAN      = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidKeyUsage = asn1.ObjectIdentifier{2, 5, 29, 15}
)

// Certificates reads concatenated DER certificates and nothing else: no PEM, no
// padding, at least one.
func Certificates(der []byte) ([]*x509.Certificate, error) {
	switch {
	case len(der) == 0:
		return nil, errors.New("is empty")
	case bytes.Contains(der, []byte("-----BEGIN")):
		return nil, errors.New("is PEM, not DER")
	}
	certs, err := x509.ParseCertificates(der)
	if err != nil {
		return nil, fmt.Errorf("is not concatenated DER: %w", err)
	}
	return certs, nil
}

// PrivateKey reads one unencrypted PKCS#8 key in DER, and nothing after it.
func PrivateKey(der []byte) (crypto.Signer, error) {
	var outer asn1.RawValue
	rest, err := asn1.Unmarshal(der, &outer)
	switch {
	case bytes.Contains(der, []byte("-----BEGIN")):
		return nil, errors.New("is PEM, not DER")
	case err != nil:
		return nil, fmt.Errorf("is not DER: %w", err)
	case len(rest) > 0:
		return nil, fmt.Errorf("has %d bytes after the key", len(rest))
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("is not unencrypted PKCS#8: %w", err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("is a %T, which signs nothing", key)
	}
	return signer, nil
}

// Names is the subject alternative name extension as its bytes have it.
type Names struct {
	URIs     []string
	Critical bool
}

// SubjectNames reads the extension; a certificate without it has no names.
func SubjectNames(cert *x509.Certificate) (Names, error) {
	var names Names
	for _, ext := range cert.Extensions {
		if !ext.Id.Equal(oidSAN) {
			continue
		}
		names.Critical = ext.Critical
		var list asn1.RawValue
		if rest, err := asn1.Unmarshal(ext.Value, &list); err != nil || len(rest) > 0 {
			return Names{}, errors.New("the subject alternative name is no single DER sequence")
		}
		for rest := list.Bytes; len(rest) > 0; {
			var name asn1.RawValue
			var err error
			if rest, err = asn1.Unmarshal(rest, &name); err != nil {
				return Names{}, fmt.Errorf("a subject alternative name: %w", err)
			}
			if name.Class == asn1.ClassContextSpecific && name.Tag == 6 { // RFC 5280 section 4.2.1.6
				names.URIs = append(names.URIs, string(name.Bytes))
			}
		}
	}
	return names, nil
}

// KeyUsage says whether the key usage extension is there, and critical.
func KeyUsage(cert *x509.Certificate) (present, critical bool) {
	for _, ext := range cert.Extensions {
		if ext.Id.Equal(oidKeyUsage) {
			return true, ext.Critical
		}
	}
	return false, false
}

// EmptySubject says whether the certificate's subject has no part at all.
func EmptySubject(cert *x509.Certificate) bool {
	return bytes.Equal(cert.RawSubject, []byte{0x30, 0x00})
}

// PublicKeyBytes gives a public key as SubjectPublicKeyInfo, to compare keys of
// different documents.
func PublicKeyBytes(key crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", fmt.Errorf("encode a public key: %w", err)
	}
	return string(der), nil
}

func unsigned(raw []byte) *big.Int { return new(big.Int).SetBytes(raw) }
