package identity

import (
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const (
	// MaxIDBytes is the longest SPIFFE ID accepted or issued (SPIFFE-ID section 2.3).
	MaxIDBytes = 2048
	// MaxTrustDomainBytes is the longest trust domain name (SPIFFE-ID section 2.3).
	MaxTrustDomainBytes = 255
)

// ParseID parses a SPIFFE ID strictly. Unlike a lenient URI parser it folds
// nothing: an upper-case scheme or trust domain, a port, userinfo, query,
// fragment, percent-encoding, empty or dot segment, a trailing slash, or an ID
// over 2048 bytes is an error. The path may be empty (the ID of a trust domain).
//
// The error is an *Error with code Invalid whose cause is a Fault.
func ParseID(s string) (spiffeid.ID, error) {
	switch fault := findFault(s); fault {
	case "":
	case FaultTooLong:
		return spiffeid.ID{}, faultf(fault, "SPIFFE ID is %d bytes long; the limit is %d", len(s), MaxIDBytes)
	default:
		return spiffeid.ID{}, faultf(fault, "%q is not a SPIFFE ID: %s", Clip(s), faultText(fault))
	}
	id, err := spiffeid.FromString(s)
	if err != nil { // the library is never stricter than findFault; if it becomes so, it is right
		return spiffeid.ID{}, faultf(FaultPathChars, "%q is not a SPIFFE ID: %s", Clip(s), err)
	}
	return id, nil
}

// ParseWorkloadID is ParseID for an ID that must name a workload: its path is
// not empty (X509-SVID section 5.2).
func ParseWorkloadID(s string) (spiffeid.ID, error) {
	id, err := ParseID(s)
	if err == nil && id.Path() == "" {
		err = faultf(FaultNoPath, "%q has no path, so it names a trust domain and not a workload", Clip(s))
	}
	if err != nil {
		return spiffeid.ID{}, err
	}
	return id, nil
}

func faultf(fault Fault, format string, args ...any) *Error {
	e := Errorf(Invalid, format, args...)
	e.Err = fault
	return e
}

// ParseTrustDomain parses a bare trust domain name such as "dev.icp.internal".
func ParseTrustDomain(s string) (spiffeid.TrustDomain, error) {
	if strings.Contains(s, "/") {
		return spiffeid.TrustDomain{}, Errorf(Invalid, "%q is not a trust domain name: give the name alone, without spiffe:// and path", Clip(s))
	}
	id, err := ParseID("spiffe://" + s)
	if err != nil {
		return spiffeid.TrustDomain{}, err
	}
	return id.TrustDomain(), nil
}

// Clip shortens s for an error message, so that hostile input stays small.
func Clip(s string) string {
	const limit = 128
	if len(s) <= limit {
		return s
	}
	return fmt.Sprintf("%s… (%d bytes)", s[:limit], len(s))
}
