package ca

import (
	"crypto"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"math/big"
	"net/url"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/authsec-ai/icp/internal/csr"
)

// leaf is all that goes into an X.509-SVID.
type leaf struct {
	id        spiffeid.ID
	serial    []byte
	notBefore time.Time
	notAfter  time.Time
	dnsNames  []string // from the entry, never from a request
	key       crypto.PublicKey
}

// readCSR takes key and proof of possession from a signing request.
func (a *ask) readCSR(der []byte) (err error) {
	a.key, a.spki, err = csr.Parse(der)
	return err
}

// signLeaf makes the X.509-SVID of a recorded intent. Asked again for the same
// intent it gives the same bytes, while the issuer is the same.
func (s *authority) signLeaf(a *ask) ([][]byte, error) {
	serial, err := hex.DecodeString(a.intent.Serial)
	if err != nil {
		return nil, fmt.Errorf("read serial number %q: %w", a.intent.Serial, err)
	}
	return s.signX509(leaf{
		id:        a.intent.SPIFFEID,
		serial:    serial,
		notBefore: a.intent.NotBefore,
		notAfter:  a.intent.ExpiresAt,
		dnsNames:  a.entry.DNSNames,
		key:       a.key,
	})
}

// signX509 makes and checks a certificate and gives the chain below the anchor.
// It signs for its own trust domain alone, and only what ends before it does.
func (s *authority) signX509(l leaf) ([][]byte, error) {
	if l.id.TrustDomain().Name() != s.row.TrustDomain || l.id.Path() == "" {
		return nil, fmt.Errorf("authority of trust domain %q does not sign for %s", s.row.TrustDomain, l.id)
	}
	if l.notAfter.After(s.row.ExpiresAt) {
		return nil, fmt.Errorf("certificate would end at %s, after its issuer", l.notAfter)
	}
	tmpl, err := leafTemplate(l)
	if err != nil {
		return nil, err
	}
	// Without randomness the signature is deterministic (RFC 6979).
	// CreateCertificate verifies what it signed.
	der, err := x509.CreateCertificate(nil, tmpl, s.cert, l.key, s.key)
	if err != nil {
		return nil, fmt.Errorf("sign a certificate: %w", err)
	}
	if err := lintLeaf(der); err != nil {
		return nil, fmt.Errorf("check a signed certificate: %w", err)
	}
	return [][]byte{der, s.row.Certificate}, nil
}

// leafTemplate is the profile of X.509-SVIDs (X509-SVID sections 2 to 4).
func leafTemplate(l leaf) (*x509.Certificate, error) {
	spki, err := x509.MarshalPKIXPublicKey(l.key)
	if err != nil {
		return nil, fmt.Errorf("encode the public key: %w", err)
	}
	return &x509.Certificate{
		SerialNumber:          new(big.Int).SetBytes(l.serial),
		Subject:               nameOf(l.id.String()),
		NotBefore:             l.notBefore,
		NotAfter:              l.notAfter,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true, // present, and not a CA
		SubjectKeyId:          keyID(spki),
		URIs:                  []*url.URL{l.id.URL()},
		DNSNames:              l.dnsNames,
	}, nil
}
