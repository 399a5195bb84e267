package svid

import (
	"errors"
	"fmt"

	"github.com/authsec-ai/icp/identity"
)

// Reason is a stable code for the rule that a credential broke.
type Reason string

// Reasons that X.509 and JWT share.
const (
	BadOptions    Reason = "options"              // the caller's options make no sense; nothing is accepted
	TooLarge      Reason = "too-large"            // over a size cap, refused before it is read
	NoPath        Reason = "id-no-path"           // the ID names a trust domain, not a workload (X509-05, JWT-08)
	UnknownDomain Reason = "unknown-trust-domain" // there is no bundle for the ID's trust domain (WLAPI-11, JWT-19)
	NoAuthorities Reason = "no-authorities"       // the bundle has no usable key of this kind (X509-29, JWT-18, TDB-09)
	WeakKey       Reason = "weak-key"             // a key outside the key policy
	BadSignature  Reason = "signature"            // the signature is not by the key it names
	Expired       Reason = "expired"
	NotYetValid   Reason = "not-yet-valid"
	RevokedSVID   Reason = "revoked"
)

// Reasons for X.509-SVIDs. A SPIFFE ID that can't be parsed has one of its own
// per rule: "id-" and the identity.Fault.
const (
	EmptyChain         Reason = "empty-chain"               // no certificate was presented
	Malformed          Reason = "malformed"                 // not the DER of an X.509 v3 certificate
	BadSerial          Reason = "serial"                    // zero, negative, or over 20 bytes
	BadValidity        Reason = "validity"                  // ends before it begins, never ends, or is not RFC 5280's form
	AlgorithmMismatch  Reason = "algorithm-mismatch"        // inner and outer signature algorithm differ
	DuplicateExtension Reason = "duplicate-extension"       // RFC 5280 section 4.2
	CriticalExtension  Reason = "critical-extension"        // critical, and unknown to us
	PolicyExtension    Reason = "policy-extension"          // policy mappings, or more policies than anybody needs
	NoURI              Reason = "no-uri"                    // X509-03
	ManyURIs           Reason = "many-uris"                 // X509-02
	BadSAN             Reason = "san"                       // the extension is malformed, or holds an empty name
	LeafIsCA           Reason = "leaf-is-ca"                // X509-11, X509-12
	LeafPathLength     Reason = "leaf-path-length"          // RFC 5280 section 4.2.1.9: only in CA certificates
	LeafConstraints    Reason = "leaf-name-constraints"     // RFC 5280 section 4.2.1.10: only in CA certificates
	NoKeyUsage         Reason = "no-key-usage"              // X509-15
	KeyUsageNotCrit    Reason = "key-usage-not-critical"    // X509-15
	LeafSignsCerts     Reason = "leaf-key-cert-sign"        // X509-18
	LeafSignsCRLs      Reason = "leaf-crl-sign"             // X509-18
	NoDigitalSignature Reason = "no-digital-signature"      // X509-17
	BadExtKeyUsage     Reason = "extended-key-usage"        // X509-19: present without serverAuth and clientAuth
	WeakSignature      Reason = "weak-signature"            // MD5, SHA-1, or an algorithm outside the policy
	CANotCA            Reason = "ca-not-ca"                 // X509-07: an issuer whose certificate is not a CA's
	CANoKeyUsage       Reason = "ca-no-key-usage"           // X509-15
	CAKeyUsageNotCrit  Reason = "ca-key-usage-not-critical" // X509-15
	CANoCertSign       Reason = "ca-no-key-cert-sign"       // X509-07
	CAWeakKey          Reason = "ca-weak-key"               // an issuer's key is outside the key policy
	CAWeakSignature    Reason = "ca-weak-signature"         // an issuer's certificate is signed by a weak algorithm
	CACriticalExt      Reason = "ca-critical-extension"     // of an issuer
	CAExtKeyUsage      Reason = "ca-extended-key-usage"     // an issuer is limited to other uses than an SVID's
	CAExpired          Reason = "ca-expired"                // an issuer's certificate is not valid now
	CAIDPath           Reason = "ca-id-path"                // X509-09: an issuer's ID has a path
	CAIDForeign        Reason = "ca-id-foreign"             // X509-10: an issuer's ID is in another trust domain
	CAIDMalformed      Reason = "ca-id-malformed"           // an issuer has URIs that are not one SPIFFE ID
	PathLength         Reason = "path-length"               // X509-13
	NameConstraints    Reason = "name-constraints"          // an issuer may not issue this name, or lists too many
	Untrusted          Reason = "untrusted"                 // X509-21: no path to an anchor of the ID's trust domain
)

// Reasons for JWT-SVIDs.
const (
	NoAudience      Reason = "no-audience"       // the validator has no audience of its own; it accepts nothing
	NotCompact      Reason = "not-compact"       // JWT-01, JWT-03
	BadBase64       Reason = "base64"            // not canonical base64url without padding
	BadHeader       Reason = "header"            // not a strict JSON object
	DuplicateHeader Reason = "duplicate-header"  // the same parameter twice, however spelled
	HeaderParameter Reason = "header-parameter"  // JWT-02: other than alg, kid, typ
	BadAlgorithm    Reason = "alg"               // JWT-04
	BadType         Reason = "typ"               // JWT-07
	BadKeyID        Reason = "kid"               // JWT-06: missing or not text
	UnknownKey      Reason = "unknown-key"       // JWT-17, JWT-19: kid is not in the bundle of sub's trust domain
	AlgorithmKey    Reason = "alg-key-mismatch"  // JWT-05: alg is not the key's
	BadClaims       Reason = "claims"            // not a strict JSON object
	DuplicateClaim  Reason = "duplicate-claim"   // the same claim twice, however spelled
	BadSubject      Reason = "sub"               // JWT-08: missing or not text
	BadAudience     Reason = "aud"               // JWT-09: missing, empty, or not text
	WrongAudience   Reason = "audience-mismatch" // JWT-10
	NoExpiry        Reason = "no-exp"            // JWT-12
	BadExpiry       Reason = "exp"               // JWT-12: not a NumericDate
	BadNotBefore    Reason = "nbf"               // not a NumericDate
	BadIssuedAt     Reason = "iat"               // not a NumericDate
	BadJTI          Reason = "jti"               // not text
	LifetimeTooLong Reason = "lifetime"          // over JWTOptions.MaxAge
)

// Error says which rule a credential broke. Every error of this package is one.
type Error struct {
	Reason Reason
	Detail string // for people and logs; hostile input in it is clipped and quoted
}

// Error gives reason and detail.
func (e *Error) Error() string { return string(e.Reason) + ": " + e.Detail }

// ReasonOf gives the reason in err's chain, "" if there is none.
func ReasonOf(err error) Reason {
	var e *Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return ""
}

func refuse(reason Reason, format string, args ...any) error {
	return &Error{Reason: reason, Detail: fmt.Sprintf(format, args...)}
}

// idReason gives the reason for a fault in a SPIFFE ID.
func idReason(fault identity.Fault) Reason { return Reason("id-" + string(fault)) }
