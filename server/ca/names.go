package ca

import (
	"crypto/sha256"
	"crypto/x509/pkix"
	"encoding/hex"
)

// maxNameBytes is the upper bound of common name, organization and serial
// number in a distinguished name (RFC 5280 appendix A).
const maxNameBytes = 64

// nameOf shows a SPIFFE ID in a distinguished name, for people and for servers
// that log the subject: as common name where it fits, else its SHA-256 in hex
// as serial number. Identity is the URI alone; nothing of the name comes from
// whoever asked for the certificate.
func nameOf(spiffeID string) pkix.Name {
	if len(spiffeID) <= maxNameBytes {
		return pkix.Name{CommonName: spiffeID}
	}
	return pkix.Name{SerialNumber: fit(spiffeID)}
}

// fit gives text itself if a name attribute can hold it, else its SHA-256,
// which is exactly as long as allowed.
func fit(text string) string {
	if len(text) <= maxNameBytes {
		return text
	}
	digest := sha256.Sum256([]byte(text))
	return hex.EncodeToString(digest[:])
}
