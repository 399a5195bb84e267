// Package svid is the strict validator of X.509-SVIDs and JWT-SVIDs that proxy,
// agent and server share. It works on the raw bytes of certificate and token,
// because crypto/x509 and common JOSE libraries accept more than the SPIFFE
// standards do, and it gives one Reason per rule.
//
// Nothing here trusts a certificate or token because a library parsed it: the
// SPIFFE ID is read from the raw subject alternative name extension, the trust
// bundle is chosen by that ID's trust domain before any path is built, and only
// then is a signature checked. On the other side, nothing is accepted that
// crypto/x509 refuses.
//
// Where the standards leave room or libraries differ, we hold:
//
//   - Nothing is folded: an upper-case scheme or trust domain is refused, though
//     the URI standard calls them equal.
//   - A trust domain in punycode is a name like any other; it never equals the
//     name it displays as.
//   - A leaf without basic constraints or extended key usage is accepted, one
//     without key usage or with a key usage that is not critical is not. A SAN
//     that is not critical although the subject is empty is accepted from peers
//     and refused by LintLeaf.
//   - Issuers are held to the same: cA, a critical key usage with keyCertSign,
//     and, if they have a SPIFFE ID, that of the trust domain they sign for.
//   - Of presented certificates one line is followed, by name and key
//     identifier. Certificates beside it do no harm and no work.
//   - Keys are RSA with 2048 to 8192 bits or ECDSA over P-256, P-384 or P-521.
//     Ed25519 is left out.
//   - A certificate is valid up to and with the second it ends at; a token is
//     not valid at its exp.
//   - A token needs a kid. An iat in the future is a warning, not a refusal. A
//     date may have a fraction, but no exponent.
//
// The package also lints what the control plane is about to issue: LintLeaf and
// LintAuthority.
package svid

import (
	"crypto/x509"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const (
	// MaxChainCerts is the most certificates a peer may present.
	MaxChainCerts = 8
	// MaxChainBytes is the most bytes of certificates a peer may present.
	MaxChainBytes = 64 << 10
	// MaxTokenBytes is the longest token that is looked at.
	MaxTokenBytes = 16 << 10
	// MaxSkew is the largest X509Options.Skew.
	MaxSkew = 30 * time.Second
	// MaxLeeway is the largest JWTOptions.Leeway.
	MaxLeeway = 60 * time.Second
)

// Revoked reports whether a credential is revoked: serial is an X.509 serial in
// lower-case hex, or a jti.
type Revoked func(id spiffeid.ID, serial string) bool

// X509Options adjust VerifyX509.
type X509Options struct {
	Now     time.Time     // required
	Skew    time.Duration // tolerated at both ends of the leaf's validity, at most MaxSkew
	Revoked Revoked       // nil means none is
}

func (o X509Options) check() error {
	switch {
	case o.Now.IsZero():
		return refuse(BadOptions, "X509Options.Now is not set")
	case o.Skew < 0 || o.Skew > MaxSkew:
		return refuse(BadOptions, "X509Options.Skew is %s; it may be 0 to %s", o.Skew, MaxSkew)
	}
	return nil
}

// X509 is a verified X.509-SVID.
type X509 struct {
	ID       spiffeid.ID
	Leaf     *x509.Certificate
	Serial   string        // lower-case hex
	NotAfter time.Time     // earliest end in the verified chain
	Lifetime time.Duration // of the leaf
}

// JWTOptions adjust VerifyJWT.
type JWTOptions struct {
	Now     time.Time     // required
	Leeway  time.Duration // at most MaxLeeway
	MaxAge  time.Duration // longest exp − iat, 0 means any
	Revoked Revoked       // nil means none is
}

func (o JWTOptions) check() error {
	switch {
	case o.Now.IsZero():
		return refuse(BadOptions, "JWTOptions.Now is not set")
	case o.Leeway < 0 || o.Leeway > MaxLeeway:
		return refuse(BadOptions, "JWTOptions.Leeway is %s; it may be 0 to %s", o.Leeway, MaxLeeway)
	case o.MaxAge < 0:
		return refuse(BadOptions, "JWTOptions.MaxAge is negative")
	}
	return nil
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
	Warnings []string       // what is odd but no reason to refuse, for the log
}
