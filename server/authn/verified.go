package authn

import (
	"crypto/sha256"
	"crypto/x509"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
)

// maxVerified bounds what is remembered; it is forgotten whole, which only
// costs time.
const maxVerified = 1024

// verified remembers which chains were verified with which anchors, so that a
// busy agent's signatures are not checked for every request. The anchors
// themselves, and whether the node may still call, are looked up each time.
type verified struct {
	mu    sync.Mutex
	known map[[sha256.Size]byte]verification
}

// verification is what a chain proved. It holds with the same anchors from the
// time of the check to the first end of a certificate in the chain.
type verification struct {
	proved      Principal
	anchors     *x509bundle.Bundle
	from, until time.Time
}

func newVerification(chain []*x509.Certificate, anchors *x509bundle.Bundle, proved Principal, now time.Time) verification {
	v := verification{proved: proved, anchors: anchors, from: now, until: chain[0].NotAfter}
	for _, cert := range chain {
		if cert.NotAfter.Before(v.until) {
			v.until = cert.NotAfter
		}
	}
	return v
}

func (v verification) holds(anchors *x509bundle.Bundle, now time.Time) bool {
	return !now.Before(v.from) && now.Before(v.until) && v.anchors.Equal(anchors)
}

func keyOf(chain []*x509.Certificate) (key [sha256.Size]byte) {
	h := sha256.New()
	for _, cert := range chain {
		h.Write(cert.Raw) // DER says where it ends
	}
	h.Sum(key[:0])
	return key
}

func (v *verified) get(key [sha256.Size]byte) (verification, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	found, ok := v.known[key]
	return found, ok
}

func (v *verified) put(key [sha256.Size]byte, made verification) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.known == nil || len(v.known) >= maxVerified {
		v.known = map[[sha256.Size]byte]verification{}
	}
	v.known[key] = made
}
