package proxy

import (
	"net/http"
	"net/netip"
	"strings"
)

const (
	maxPathBytes  = 4 << 10
	maxQueryBytes = 16 << 10
	// maxQueryPairs keeps our view of a query and the upstream's the same: some
	// parsers stop after a number of pairs.
	maxQueryPairs = 1000
)

// target is where a request wants to go, in the bytes that are judged and
// forwarded.
type target struct {
	path     string // canonical
	query    string // without '?'
	question bool   // there was a '?'
}

// parseTarget takes the request target apart. It refuses every path that
// servers read in more than one way, instead of choosing one.
func parseTarget(raw string) (target, *refusal) {
	path, query, question := strings.Cut(raw, "?")
	if bad := checkPath(path); bad != "" {
		return target{}, malformed("path-not-canonical", bad)
	}
	if refusal := checkQuery(query); refusal != nil {
		return target{}, refusal
	}
	return target{path, query, question}, nil
}

// originForm drops scheme and authority of an absolute target. The head check
// has compared the authority with Host.
func originForm(raw string) string {
	scheme, rest, absolute := strings.Cut(raw, "://")
	if !absolute || scheme != "http" && scheme != "https" {
		return raw
	}
	if i := strings.IndexAny(rest, "/?"); i >= 0 {
		return rest[i:]
	}
	return "/"
}

// checkPath says what is wrong with a path, "" if nothing is.
func checkPath(path string) string {
	if len(path) > maxPathBytes {
		return "the path is too long"
	}
	if !strings.HasPrefix(path, "/") {
		return "the path must start with '/'"
	}
	for _, c := range []byte(path) {
		if !pathByte(c) {
			return "the path has a character that is not a letter, a digit or one of - . _ ~ ! $ & ' ( ) * + , = : @ /"
		}
	}
	segments := strings.Split(path[1:], "/")
	for i, segment := range segments {
		if segment == "" && i < len(segments)-1 || segment == "." || segment == ".." {
			return "the path has an empty or dot segment"
		}
	}
	return ""
}

// pathByte reports whether c may stand in a path: RFC 3986's pchar without
// percent-encoding and without ';', which some servers cut parameters at.
func pathByte(c byte) bool {
	switch {
	case c >= '0' && c <= '9', (c|0x20) >= 'a' && (c|0x20) <= 'z':
		return true
	}
	return strings.IndexByte("-._~!$&'()*+,=:@/", c) >= 0
}

func checkQuery(query string) *refusal {
	if len(query) > maxQueryBytes || strings.Count(query, "&") >= maxQueryPairs {
		return malformed("malformed-query", "the query is too long")
	}
	for i := 0; i < len(query); i++ {
		switch c := query[i]; {
		case c == '%':
			if i+2 >= len(query) || !hexDigit(query[i+1]) || !hexDigit(query[i+2]) {
				return malformed("malformed-query", "the query has a bad percent-encoding")
			}
		case c <= ' ' || c >= 0x7f || c == ';' || c == '#' || c == '\\':
			return malformed("malformed-query", "the query has a ';', '#', '\\' or a character that must be percent-encoded")
		}
	}
	return nil
}

func hexDigit(c byte) bool {
	return c >= '0' && c <= '9' || (c|0x20) >= 'a' && (c|0x20) <= 'f'
}

// checkMethod wants a method in capitals: rules compare it exactly, and some
// servers don't.
func checkMethod(method string) *refusal {
	if method == http.MethodTrace || method == http.MethodConnect || strings.Trim(method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
		return refuseMethod()
	}
	return nil
}

// checkHost wants a Host in one form, and the one that the caller asked for in
// the handshake. serverName is empty if it named none, as with an IP address.
func checkHost(r *http.Request, serverName string) *refusal {
	if _, beside := r.Header["Host"]; beside {
		return malformed("repeated-host", "send :authority or Host, not both")
	}
	host, ok := hostname(r.Host)
	if !ok {
		return malformed("malformed-host", "Host must be a lower-case name or an address, with or without a port")
	}
	if serverName != "" && host != strings.TrimSuffix(strings.ToLower(serverName), ".") {
		misdirected := malformed("host-is-not-server-name", "Host differs from the server name of the TLS handshake")
		misdirected.status = http.StatusMisdirectedRequest
		return misdirected
	}
	return nil
}

// hostname gives the one form of a Host: lower case, without port and final
// dot.
func hostname(host string) (string, bool) {
	if addr, err := netip.ParseAddrPort(host); err == nil {
		return addr.Addr().String(), addr.Addr().Zone() == ""
	}
	name, port, hasPort := strings.Cut(host, ":")
	if strings.HasPrefix(host, "[") {
		name, port, hasPort = strings.TrimSuffix(host, "]"), "", false
		addr, err := netip.ParseAddr(strings.TrimPrefix(name, "["))
		return addr.String(), err == nil && addr.Zone() == ""
	}
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	if hasPort && (port == "" || len(port) > 5 || strings.Trim(port, "0123456789") != "") {
		return "", false
	}
	return name, name != "" && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-._") == "" && !strings.Contains(name, "..")
}
