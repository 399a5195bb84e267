package identity

import (
	"errors"
	"strings"
)

// Fault names the rule of the SPIFFE-ID standard that a text broke. ParseID
// puts it into the chain of its error; FaultOf gets it out.
type Fault string

// The faults a SPIFFE ID can have.
const (
	FaultTooLong           Fault = "too-long"              // over MaxIDBytes
	FaultScheme            Fault = "scheme"                // does not begin with exactly "spiffe://"
	FaultNoTrustDomain     Fault = "no-trust-domain"       // nothing between "spiffe://" and the path
	FaultTrustDomainLength Fault = "trust-domain-too-long" // over MaxTrustDomainBytes
	FaultTrustDomainCase   Fault = "trust-domain-case"     // upper-case letter in the trust domain
	FaultTrustDomainChars  Fault = "trust-domain-chars"    // any other character that a trust domain can't have
	FaultUserinfo          Fault = "userinfo"
	FaultPort              Fault = "port"
	FaultQuery             Fault = "query"
	FaultFragment          Fault = "fragment"
	FaultPercent           Fault = "percent-encoding"
	FaultEmptySegment      Fault = "empty-segment"
	FaultDotSegment        Fault = "dot-segment"
	FaultTrailingSlash     Fault = "trailing-slash"
	FaultPathChars         Fault = "path-chars" // a character that a path segment can't have
	FaultNoPath            Fault = "no-path"    // names a trust domain where a workload is wanted
)

// Error lets a Fault be the cause of an Error.
func (f Fault) Error() string { return string(f) }

// FaultOf gives the Fault in err's chain, "" if there is none.
func FaultOf(err error) Fault {
	var f Fault
	if errors.As(err, &f) {
		return f
	}
	return ""
}

const scheme = "spiffe://"

// findFault gives the first rule that s breaks, "" if it is a SPIFFE ID. It
// reads bytes, so that nothing is decoded, folded or normalised on the way.
func findFault(s string) Fault {
	if len(s) > MaxIDBytes {
		return FaultTooLong
	}
	rest, ok := strings.CutPrefix(s, scheme)
	if !ok {
		return FaultScheme
	}
	name, path := rest, ""
	if slash := strings.IndexByte(rest, '/'); slash >= 0 {
		name, path = rest[:slash], rest[slash:]
	}
	if fault := trustDomainFault(name); fault != "" {
		return fault
	}
	return pathFault(path)
}

func trustDomainFault(name string) Fault {
	if name == "" {
		return FaultNoTrustDomain
	}
	for i := range len(name) {
		if !isTrustDomainByte(name[i]) {
			return authorityFault(name, name[i])
		}
	}
	if len(name) > MaxTrustDomainBytes {
		return FaultTrustDomainLength
	}
	return ""
}

// authorityFault says what bad, the first byte of name that a trust domain
// can't have, was meant to be.
func authorityFault(name string, bad byte) Fault {
	switch {
	case bad == '?':
		return FaultQuery
	case bad == '#':
		return FaultFragment
	case strings.ContainsRune(name, '@'):
		return FaultUserinfo
	case bad == ':':
		return FaultPort
	case bad == '%':
		return FaultPercent
	case 'A' <= bad && bad <= 'Z':
		return FaultTrustDomainCase
	}
	return FaultTrustDomainChars
}

func pathFault(path string) Fault {
	if path == "" {
		return ""
	}
	for i := range len(path) {
		if path[i] != '/' && !isSegmentByte(path[i]) {
			return segmentFault(path[i])
		}
	}
	for segment := range strings.SplitSeq(path[1:], "/") {
		if segment == "." || segment == ".." {
			return FaultDotSegment
		}
	}
	switch {
	case strings.Contains(path, "//"):
		return FaultEmptySegment
	case strings.HasSuffix(path, "/"):
		return FaultTrailingSlash
	}
	return ""
}

// segmentFault says what bad, a byte that a path segment can't have, was meant
// to be.
func segmentFault(bad byte) Fault {
	switch bad {
	case '?':
		return FaultQuery
	case '#':
		return FaultFragment
	case '%':
		return FaultPercent
	}
	return FaultPathChars
}

func isTrustDomainByte(c byte) bool {
	return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '.' || c == '-' || c == '_'
}

func isSegmentByte(c byte) bool {
	return isTrustDomainByte(c) || 'A' <= c && c <= 'Z'
}

// faultText says each fault to a person, with the remedy where there is one.
func faultText(f Fault) string {
	switch f {
	case FaultScheme:
		return "it must begin with spiffe://, in lower case"
	case FaultNoTrustDomain:
		return "it has no trust domain"
	case FaultTrustDomainLength:
		return "its trust domain is longer than 255 bytes"
	case FaultTrustDomainCase:
		return "its trust domain has upper-case letters; write it in lower case"
	case FaultTrustDomainChars:
		return "its trust domain may have only a-z, 0-9, '.', '-' and '_'"
	case FaultUserinfo:
		return "it must not have userinfo ('@')"
	case FaultPort:
		return "it must not have a port (':')"
	case FaultQuery:
		return "it must not have a query ('?')"
	case FaultFragment:
		return "it must not have a fragment ('#')"
	case FaultPercent:
		return "it must not be percent-encoded ('%')"
	case FaultEmptySegment:
		return "its path has an empty segment ('//')"
	case FaultDotSegment:
		return "its path has a '.' or '..' segment"
	case FaultTrailingSlash:
		return "it must not end in '/'"
	case FaultPathChars:
		return "its path may have only A-Z, a-z, 0-9, '.', '-', '_' and '/'"
	}
	return string(f)
}
