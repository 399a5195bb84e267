package head

import (
	"bytes"
	"net/http"
	"strconv"
	"strings"
)

// framing is how a head says that its body ends.
type framing struct {
	chunked bool
	length  int64 // 0 without a body or when chunked
}

// fields are the header fields that framing and routing hang on.
type fields struct {
	host     string
	hosts    int
	lengths  []string
	encoding []string
}

// check judges one whole head, up to and including its empty line. Every line
// is known to end in CR LF.
func check(raw []byte) (framing, *Refusal) {
	line, rest, _ := bytes.Cut(raw, crlf)
	target, version, refusal := checkRequestLine(line)
	if refusal != nil {
		return framing{}, refusal
	}
	seen, refusal := checkFields(rest)
	if refusal != nil {
		return framing{}, refusal
	}
	if refusal := checkHost(target, seen); refusal != nil {
		return framing{}, refusal
	}
	return bodyFraming(version, seen)
}

var crlf = []byte("\r\n")

// checkRequestLine wants exactly METHOD SP target SP version (RFC 9112
// section 3).
func checkRequestLine(line []byte) (target, version string, refusal *Refusal) {
	method, rest, ok := strings.Cut(string(line), " ")
	target, version, okToo := strings.Cut(rest, " ")
	switch {
	case !ok || !okToo || strings.Contains(version, " "):
		return "", "", refuse("malformed-request-line")
	case !letters(method):
		return "", "", refuse("malformed-method")
	case version != "HTTP/1.1" && version != "HTTP/1.0":
		return "", "", &Refusal{http.StatusHTTPVersionNotSupported, "unsupported-http-version"}
	case !visible(target) || !escaped(target) || !routable(method, target):
		return "", "", refuse("malformed-target")
	}
	return target, version, nil
}

func letters(s string) bool {
	for _, c := range []byte(s) {
		if (c|0x20) < 'a' || (c|0x20) > 'z' {
			return false
		}
	}
	return s != "" && len(s) <= 32
}

// visible reports whether s is printable ASCII without spaces.
func visible(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f {
			return false
		}
	}
	return true
}

// escaped reports whether every '%' starts an escape.
func escaped(s string) bool {
	for {
		_, after, found := strings.Cut(s, "%")
		if !found {
			return true
		}
		if len(after) < 2 || strings.Trim(after[:2], "0123456789abcdefABCDEF") != "" {
			return false
		}
		s = after[2:]
	}
}

// routable reports whether target has one of the forms of RFC 9112 section 3.2.
func routable(method, target string) bool {
	return strings.HasPrefix(target, "/") || strings.HasPrefix(target, "http://") || strings.HasPrefix(target, "https://") ||
		method == http.MethodConnect && hostBytes(target) || method == http.MethodOptions && target == "*"
}

func hostBytes(s string) bool {
	return s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._:[]") == ""
}

// checkFields judges the field lines (RFC 9112 section 5) up to the empty one.
func checkFields(rest []byte) (fields, *Refusal) {
	var seen fields
	for count := 0; ; count++ {
		line, after, _ := bytes.Cut(rest, crlf)
		if len(line) == 0 {
			return seen, nil
		}
		if count == MaxFields {
			return seen, &Refusal{http.StatusRequestHeaderFieldsTooLarge, "too-many-header-fields"}
		}
		if refusal := checkField(line, &seen); refusal != nil {
			return seen, refusal
		}
		rest = after
	}
}

func checkField(line []byte, seen *fields) *Refusal {
	if line[0] == ' ' || line[0] == '\t' {
		return refuse("folded-header-line")
	}
	name, value, ok := bytes.Cut(line, []byte(":"))
	if !ok || !token(name) {
		return refuse("malformed-header-name")
	}
	if !fieldValue(value) {
		return refuse("control-character-in-header")
	}
	return seen.note(name, bytes.Trim(value, " \t"))
}

// note keeps a field that framing hangs on.
func (seen *fields) note(name, value []byte) *Refusal {
	known := knownField(name)
	if known == "" {
		return nil
	}
	text := string(value)
	switch known {
	case "host":
		seen.host, seen.hosts = text, seen.hosts+1
	case "expect":
		if !strings.EqualFold(text, "100-continue") {
			return &Refusal{http.StatusExpectationFailed, "unknown-expectation"}
		}
	case "content-length":
		seen.lengths = append(seen.lengths, text)
	case "transfer-encoding":
		seen.encoding = append(seen.encoding, text)
	}
	return nil
}

// knownField gives the lower-case name of a field that note keeps, "" for
// others.
func knownField(name []byte) string {
	known := ""
	switch len(name) {
	case 4:
		known = "host"
	case 6:
		known = "expect"
	case 14:
		known = "content-length"
	case 17:
		known = "transfer-encoding"
	}
	if strings.EqualFold(known, string(name)) {
		return known
	}
	return ""
}

// token reports whether b is a token (RFC 9110 section 5.6.2).
func token(b []byte) bool {
	for _, c := range b {
		alphanumeric := c >= '0' && c <= '9' || (c|0x20) >= 'a' && (c|0x20) <= 'z'
		if !alphanumeric && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return len(b) > 0
}

func fieldValue(b []byte) bool {
	for _, c := range b {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// checkHost wants one Host, equal to the authority of an absolute target.
func checkHost(target string, seen fields) *Refusal {
	switch {
	case seen.hosts == 0 || seen.host == "":
		return refuse("missing-host")
	case seen.hosts > 1:
		return refuse("repeated-host")
	case !hostBytes(seen.host):
		return refuse("malformed-host")
	}
	_, after, absolute := strings.Cut(target, "://")
	if absolute && !strings.HasPrefix(target, "/") {
		authority, _, _ := strings.Cut(after, "/")
		if authority != seen.host {
			return &Refusal{http.StatusMisdirectedRequest, "target-is-not-host"}
		}
	}
	return nil
}

// bodyFraming decides where the body ends (RFC 9112 section 6), or refuses
// when there is more than one way to decide it.
func bodyFraming(version string, seen fields) (framing, *Refusal) {
	switch {
	case len(seen.encoding) > 0 && len(seen.lengths) > 0:
		return framing{}, refuse("content-length-and-transfer-encoding")
	case len(seen.encoding) > 0 && version == "HTTP/1.0":
		return framing{}, refuse("transfer-encoding-in-http-1-0")
	case len(seen.encoding) > 1:
		return framing{}, refuse("repeated-transfer-encoding")
	case len(seen.encoding) == 1:
		if !strings.EqualFold(seen.encoding[0], "chunked") {
			return framing{}, &Refusal{http.StatusNotImplemented, "unsupported-transfer-encoding"}
		}
		return framing{chunked: true}, nil
	case len(seen.lengths) > 1:
		return framing{}, refuse("repeated-content-length")
	case len(seen.lengths) == 1:
		return contentLength(seen.lengths[0])
	}
	return framing{}, nil
}

func contentLength(text string) (framing, *Refusal) {
	if text == "" || strings.Trim(text, "0123456789") != "" {
		return framing{}, refuse("malformed-content-length")
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return framing{}, refuse("malformed-content-length")
	}
	return framing{length: n}, nil
}
