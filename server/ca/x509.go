package ca

import (
	"encoding/hex"
	"fmt"

	"github.com/authsec-ai/icp/identity/svid"
	"github.com/authsec-ai/icp/internal/csr"
)

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
	der, err := l.encode(s.cert, s.key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	if err := svid.LintLeaf(der); err != nil {
		return nil, fmt.Errorf("check a signed certificate: %w", err)
	}
	return [][]byte{der, s.row.Certificate}, nil
}
