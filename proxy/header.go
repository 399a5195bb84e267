package proxy

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/authsec-ai/icp/identity/svid"
)

// Headers that tell the upstream who calls.
const (
	headerXFCC      = "X-Forwarded-Client-Cert" // in Envoy's form
	headerSPIFFEID  = "X-Spiffe-Id"
	headerRequestID = "X-Request-Id"
)

// hopByHop fields end at the proxy (RFC 9110 section 7.6.1).
var hopByHop = map[string]bool{
	"connection": true, "proxy-connection": true, "keep-alive": true, "te": true, "trailer": true,
	"transfer-encoding": true, "upgrade": true, "http2-settings": true, "proxy-authenticate": true,
}

// stripped fields of a caller never reach an upstream: credentials (the proxy
// adds its own), statements about who calls or through what, and whatever
// changes the meaning of a request that has been judged without it.
var stripped = map[string]bool{
	"authorization": true, "proxy-authorization": true, "x-api-key": true, "api-key": true, "x-goog-api-key": true,
	"x-spiffe-id": true, "forwarded": true, "x-real-ip": true, "x-request-id": true, "x-client-cert": true,
	"x-http-method-override": true, "x-http-method": true, "x-method-override": true,
	"x-model": true, "x-llm-model": true, "expect": true,
}

var strippedPrefixes = []string{"x-forwarded-", "x-original-", "x-rewrite-", "x-ai-eg-", "x-envoy-", "x-litellm-", "ssl-client-", "x-ssl-client-"}

// stripper decides which of a caller's header fields are forwarded.
type stripper struct {
	secrets map[string]bool // headers in which some backend gets a credential
}

func newStripper(secrets []string) stripper {
	s := stripper{secrets: map[string]bool{}}
	for _, name := range secrets {
		s.secrets[fold(name)] = true
	}
	return s
}

// fold gives the form in which names are compared. Gateways that turn header
// names into variables make one character of '-' and, some of them, of all that
// is neither a letter nor a digit.
func fold(name string) string {
	if folded, ok := common[name]; ok {
		return folded
	}
	return strings.Map(func(r rune) rune {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') {
			return '-'
		}
		return r
	}, strings.ToLower(name))
}

// common has the folded form of names that stand in most requests and answers.
var common = map[string]string{
	"Accept": "accept", "Accept-Encoding": "accept-encoding", "Accept-Language": "accept-language",
	"Cache-Control": "cache-control", "Content-Encoding": "content-encoding", "Content-Length": "content-length",
	"Content-Type": "content-type", "Date": "date", "Etag": "etag", "Server": "server",
	"User-Agent": "user-agent", "Vary": "vary",
}

// forward copies what may pass from the caller's header.
func (s stripper) forward(from http.Header) http.Header {
	named := connectionNamed(from)
	to := make(http.Header, len(from)+4)
	for name, values := range from {
		if folded := fold(name); !named[folded] && s.passes(folded) {
			to[name] = values
		}
	}
	if _, ok := from["User-Agent"]; !ok {
		to["User-Agent"] = nil // or net/http adds its own
	}
	if trailersAccepted(from) {
		to.Set("Te", "trailers") // gRPC insists on it
	}
	return to
}

func (s stripper) passes(folded string) bool {
	if hopByHop[folded] || stripped[folded] || s.secrets[folded] {
		return false
	}
	for _, prefix := range strippedPrefixes {
		if strings.HasPrefix(folded, prefix) {
			return false
		}
	}
	return true
}

// connectionNamed gives the fields that Connection makes hop-by-hop; nil for
// none.
func connectionNamed(header http.Header) map[string]bool {
	values := header["Connection"]
	if len(values) == 0 {
		return nil
	}
	named := map[string]bool{}
	for _, value := range values {
		for name := range strings.SplitSeq(value, ",") {
			named[fold(strings.TrimSpace(name))] = true
		}
	}
	return named
}

func trailersAccepted(header http.Header) bool {
	for _, value := range header["Te"] {
		for coding := range strings.SplitSeq(value, ",") {
			if strings.EqualFold(strings.TrimSpace(coding), "trailers") {
				return true
			}
		}
	}
	return false
}

// identify sets who calls, after everything else that a caller could have sent
// under these names is gone.
func identify(header http.Header, self spiffeid.ID, caller *peer) {
	header[headerXFCC] = []string{"By=" + self.String() + caller.described}
	header[headerSPIFFEID] = []string{caller.svid.ID.String()}
}

// describe gives what Envoy's form says of a caller and its certificate.
func describe(caller *svid.X509) string {
	digest := sha256.Sum256(caller.Leaf.Raw)
	return ";Hash=" + hex.EncodeToString(digest[:]) + ";URI=" + caller.ID.String()
}

// answer copies an upstream's header for the caller, without what belongs to
// the connection and without any field that holds secret.
func answer(to, from http.Header, secret string) {
	named := connectionNamed(from)
	for name, values := range from {
		if folded := fold(name); hopByHop[folded] || named[folded] || folded == "alt-svc" || folded == "x-request-id" {
			continue
		}
		if !holds(values, secret) {
			to[name] = values
		}
	}
}

// holds reports whether one of values contains secret.
func holds(values []string, secret string) bool {
	return secret != "" && slices.ContainsFunc(values, func(v string) bool { return strings.Contains(v, secret) })
}
