// Package svid is the strict validator of X.509-SVIDs and JWT-SVIDs that proxy,
// agent and server share. It works on the raw bytes of certificate and token,
// because crypto/x509 and common JOSE libraries accept more than the SPIFFE
// standards do, and it gives one Reason per rule.
//
// Nothing here trusts a certificate or token because a library parsed it: the
// SPIFFE ID is read from the raw subject alternative name extension, the trust
// bundle is chosen by that ID's trust domain before any path is built, and only
// then is a signature checked.
package svid

import (
	"errors"
	"time"

	"crypto/x509"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Reason is a stable code for the rule that a credential broke.
type Reason string

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

// Revoked reports whether a credential is revoked: serial is an X.509 serial in
// lower-case hex, or a jti.
type Revoked func(id spiffeid.ID, serial string) bool

// X509Options adjust VerifyX509.
type X509Options struct {
	Now     time.Time     // required
	Skew    time.Duration // tolerated at both ends of the validity, at most 30 s
	Revoked Revoked       // nil means none is
}

// X509 is a verified X.509-SVID.
type X509 struct {
	ID       spiffeid.ID
	Leaf     *x509.Certificate
	Serial   string        // lower-case hex
	NotAfter time.Time     // earliest end in the verified chain
	Lifetime time.Duration // of the leaf
}

// VerifyX509 checks a chain as a peer sent it (DER, leaf first, anchors not
// needed) and gives the identity it proves.
func VerifyX509(chain [][]byte, bundles x509bundle.Source, opts X509Options) (*X509, error) {
	return nil, &Error{Reason: "unimplemented"}
}

// JWTOptions adjust VerifyJWT.
type JWTOptions struct {
	Now     time.Time     // required
	Leeway  time.Duration // at most 60 s
	MaxAge  time.Duration // longest exp − iat, 0 means any
	Revoked Revoked       // nil means none is
}

// JWT is a verified JWT-SVID.
type JWT struct {
	ID       spiffeid.ID
	Audience []string
	Expiry   time.Time
	IssuedAt time.Time // zero if absent
	KeyID    string
	JTI      string
	Claims   map[string]any // as signed; numbers are json.Number
}

// VerifyJWT checks a compact JWS whose audience must hold at least one of
// audience, exact bytes. An empty audience accepts nothing.
func VerifyJWT(token string, audience []string, bundles jwtbundle.Source, opts JWTOptions) (*JWT, error) {
	return nil, &Error{Reason: "unimplemented"}
}
