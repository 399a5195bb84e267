package strict

import (
	"errors"
	"fmt"
	"strings"
)

const (
	maxID          = 2048 // bytes, SPIFFE-ID section 2.3
	maxTrustDomain = 255
)

// ID takes a SPIFFE ID apart by its bytes (SPIFFE-ID section 2): nothing is
// folded or decoded. The path is "" for the ID of a trust domain.
func ID(text string) (trustDomain, path string, err error) {
	rest, ok := strings.CutPrefix(text, "spiffe://")
	switch {
	case !ok:
		return "", "", fmt.Errorf("%q does not start with spiffe://", clip(text))
	case len(text) > maxID:
		return "", "", fmt.Errorf("an ID of %d bytes is longer than %d", len(text), maxID)
	}
	trustDomain, path, slash := strings.Cut(rest, "/")
	if err := checkTrustDomain(trustDomain); err != nil {
		return "", "", fmt.Errorf("%q: %w", clip(text), err)
	}
	if !slash {
		return trustDomain, "", nil
	}
	for _, segment := range strings.Split(path, "/") {
		if err := checkSegment(segment); err != nil {
			return "", "", fmt.Errorf("%q: %w", clip(text), err)
		}
	}
	return trustDomain, "/" + path, nil
}

// WorkloadID takes apart an ID that must have a path.
func WorkloadID(text string) (trustDomain, path string, err error) {
	if trustDomain, path, err = ID(text); err == nil && path == "" {
		err = fmt.Errorf("%q has no path, so it names a trust domain and no workload", clip(text))
	}
	return trustDomain, path, err
}

func checkTrustDomain(name string) error {
	switch {
	case name == "":
		return errors.New("the trust domain is empty")
	case len(name) > maxTrustDomain:
		return fmt.Errorf("the trust domain is longer than %d bytes", maxTrustDomain)
	}
	for _, c := range []byte(name) {
		if !isLower(c) && !isDigit(c) && !strings.ContainsRune(".-_", rune(c)) {
			return fmt.Errorf("the trust domain has the byte %q", c)
		}
	}
	return nil
}

func checkSegment(segment string) error {
	switch segment {
	case "":
		return errors.New("the path has an empty segment")
	case ".", "..":
		return fmt.Errorf("the path has the segment %q", segment)
	}
	for _, c := range []byte(segment) {
		if !isLower(c) && !isDigit(c) && !(c >= 'A' && c <= 'Z') && !strings.ContainsRune(".-_", rune(c)) {
			return fmt.Errorf("the path has the byte %q", c)
		}
	}
	return nil
}

func isLower(c byte) bool { return c >= 'a' && c <= 'z' }
func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// clip keeps what a server sent from filling the screen.
func clip(text string) string {
	const most = 120
	if len(text) <= most {
		return text
	}
	return text[:most] + "…"
}
