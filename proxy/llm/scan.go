package llm

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

const (
	maxDepth = 128 // nesting of a body
	maxKeys  = 256 // keys of its top-level object
	maxModel = 256 // bytes of a model name
)

// body is what the top level of a request body says.
type body struct {
	Model string // "" if there is no model key
}

// scan reads a JSON object (RFC 8259, I-JSON's rule on keys) in one pass. It
// refuses whatever some reader would take in another way: anything after the
// object, a byte order mark, invalid UTF-8, repeated keys at the top level, a
// "model" key in another case, lists of models to choose from, and models of
// tools.
func scan(raw []byte) (body, *Error) {
	if !utf8.Valid(raw) {
		return body{}, notJSON("is not UTF-8")
	}
	s := scanner{data: raw}
	s.space()
	if s.peek() != '{' {
		return body{}, notJSON("is not a JSON object")
	}
	found, err := s.top()
	if err != nil {
		return body{}, err
	}
	s.space()
	if s.pos != len(raw) {
		return body{}, notJSON("has something after the JSON object")
	}
	return found, nil
}

func notJSON(what string) *Error { return malformed("malformed-json", "the request body "+what) }

// scanner walks over data. Its methods report failure by false and leave pos
// wherever it is.
type scanner struct {
	data []byte
	pos  int
}

// peek gives the next byte, 0 at the end. A literal NUL is no JSON anywhere, so
// the two need not be told apart.
func (s *scanner) peek() byte {
	if s.pos < len(s.data) {
		return s.data[s.pos]
	}
	return 0
}

func (s *scanner) space() {
	for s.pos < len(s.data) {
		switch s.data[s.pos] {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return
		}
	}
}

// top reads the outermost object and collects what it says.
func (s *scanner) top() (body, *Error) {
	var found body
	keys := make(map[string]struct{}, 16)
	more := s.open('}')
	for more {
		key, err := s.key()
		if err != nil {
			return body{}, err
		}
		if _, again := keys[key]; again {
			return body{}, malformed("repeated-json-key", "the request body has the key "+quote(key)+" more than once")
		}
		if keys[key] = struct{}{}; len(keys) > maxKeys {
			return body{}, malformed("malformed-json", "the request body has too many keys")
		}
		if err := s.member(key, &found); err != nil {
			return body{}, err
		}
		if more, err = s.next('}'); err != nil {
			return body{}, err
		}
	}
	return found, nil
}

// open passes the bracket that starts an object or array and reports whether
// it has members.
func (s *scanner) open(end byte) bool {
	s.pos++
	s.space()
	if s.peek() == end {
		s.pos++
		return false
	}
	return true
}

// next passes what stands after a member: a comma (true) or end (false).
func (s *scanner) next(end byte) (bool, *Error) {
	s.space()
	switch s.peek() {
	case ',':
		s.pos++
		s.space()
		return true, nil
	case end:
		s.pos++
		return false, nil
	}
	return false, notJSON("is not valid JSON")
}

// key reads a key and its colon.
func (s *scanner) key() (string, *Error) {
	if s.peek() != '"' {
		return "", notJSON("is not valid JSON")
	}
	key, ok := s.text()
	if !ok {
		return "", notJSON("is not valid JSON")
	}
	s.space()
	if s.peek() != ':' {
		return "", notJSON("is not valid JSON")
	}
	s.pos++
	s.space()
	return key, nil
}

// choices are top-level keys by which gateways let the caller name further
// models. They are refused: each would need a decision of its own.
var choices = []string{"models", "fallbacks", "fallback_models", "fallback_model", "route", "model_id", "modelId", "deployment"}

// member reads the value of a top-level key.
func (s *scanner) member(key string, found *body) *Error {
	if key == "model" {
		return s.model(found)
	}
	if key == "tools" && s.peek() == '[' {
		return s.tools()
	}
	if strings.EqualFold(key, "model") {
		return malformed("ambiguous-model", `the request body has a key that is "model" in another case`)
	}
	for _, choice := range choices {
		if strings.EqualFold(key, choice) {
			return malformed("ambiguous-model", "the request body names models in "+quote(key)+`; name one in "model"`)
		}
	}
	if !s.value(1) {
		return notJSON("is not valid JSON")
	}
	return nil
}

// tools reads the tools of a request. Some run a model of their own, which the
// caller may name; it would need a decision of its own, so it is refused.
func (s *scanner) tools() *Error {
	more := s.open(']')
	for more {
		if err := s.tool(); err != nil {
			return err
		}
		var err *Error
		if more, err = s.next(']'); err != nil {
			return err
		}
	}
	return nil
}

// tool reads one tool. What is deeper in it, such as the schema of its
// parameters, names no model to run.
func (s *scanner) tool() *Error {
	if s.peek() != '{' {
		if !s.value(2) {
			return notJSON("is not valid JSON")
		}
		return nil
	}
	more := s.open('}')
	for more {
		key, err := s.key()
		if err != nil {
			return err
		}
		if strings.EqualFold(key, "model") {
			return malformed("ambiguous-model", `the request body names a model in "tools"`)
		}
		if !s.value(3) {
			return notJSON("is not valid JSON")
		}
		if more, err = s.next('}'); err != nil {
			return err
		}
	}
	return nil
}

func (s *scanner) model(found *body) *Error {
	if s.peek() != '"' {
		return malformed("malformed-model", `"model" must be text`)
	}
	name, ok := s.text()
	if !ok {
		return notJSON("is not valid JSON")
	}
	if err := checkModel(name); err != nil {
		return err
	}
	found.Model = name
	return nil
}

func checkModel(name string) *Error {
	if name == "" || len(name) > maxModel {
		return malformed("malformed-model", `"model" must have between 1 and 256 bytes`)
	}
	for _, r := range name {
		if r < ' ' || r == 0x7f || r == utf8.RuneError {
			return malformed("malformed-model", `"model" has a character that no model name has`)
		}
	}
	return nil
}

// value passes any value.
func (s *scanner) value(depth int) bool {
	if depth > maxDepth {
		return false
	}
	switch c := s.peek(); c {
	case '{':
		return s.object(depth)
	case '[':
		return s.array(depth)
	case '"':
		_, ok := s.rawText()
		return ok
	case 't':
		return s.literal("true")
	case 'f':
		return s.literal("false")
	case 'n':
		return s.literal("null")
	}
	return s.number()
}

func (s *scanner) object(depth int) bool {
	more := s.open('}')
	for more {
		if s.peek() != '"' {
			return false
		}
		if _, ok := s.rawText(); !ok {
			return false
		}
		s.space()
		if s.peek() != ':' {
			return false
		}
		s.pos++
		s.space()
		if !s.value(depth + 1) {
			return false
		}
		var err *Error
		if more, err = s.next('}'); err != nil {
			return false
		}
	}
	return true
}

func (s *scanner) array(depth int) bool {
	more := s.open(']')
	for more {
		if !s.value(depth + 1) {
			return false
		}
		var err *Error
		if more, err = s.next(']'); err != nil {
			return false
		}
	}
	return true
}

func (s *scanner) literal(word string) bool {
	if !bytes.HasPrefix(s.data[s.pos:], []byte(word)) {
		return false
	}
	s.pos += len(word)
	return true
}

// number passes a number (RFC 8259 section 6).
func (s *scanner) number() bool {
	if s.peek() == '-' {
		s.pos++
	}
	switch {
	case s.peek() == '0':
		s.pos++
	case !s.digits():
		return false
	}
	if s.peek() == '.' {
		s.pos++
		if !s.digits() {
			return false
		}
	}
	if s.peek()|0x20 == 'e' {
		s.pos++
		if c := s.peek(); c == '+' || c == '-' {
			s.pos++
		}
		return s.digits()
	}
	return true
}

func (s *scanner) digits() bool {
	start := s.pos
	for c := s.peek(); c >= '0' && c <= '9'; c = s.peek() {
		s.pos++
	}
	return s.pos > start
}

// rawText passes a string and gives what is between its quotes, escapes
// checked but not resolved.
func (s *scanner) rawText() (raw []byte, ok bool) {
	s.pos++
	start := s.pos
	for {
		s.pos += plain(s.data[s.pos:])
		switch c := s.peek(); {
		case c == '"':
			s.pos++
			return s.data[start : s.pos-1], true
		case c != '\\' || !s.escape():
			return nil, false
		}
	}
}

// plain counts the leading bytes that need no look: neither quote, backslash
// nor control character. It reads eight at a time; a byte is flagged when a
// subtraction borrows into its high bit, and the lowest flag is always true.
func plain(b []byte) int {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	n := 0
	for ; len(b)-n >= 8; n += 8 {
		w := binary.LittleEndian.Uint64(b[n:])
		quote, slash := w^(ones*'"'), w^(ones*'\\')
		flags := ((quote - ones) &^ quote) | ((slash - ones) &^ slash) | ((w - ones*' ') &^ w)
		if flags &= highs; flags != 0 {
			return n + bits.TrailingZeros64(flags)/8
		}
	}
	for n < len(b) && b[n] != '"' && b[n] != '\\' && b[n] >= ' ' {
		n++
	}
	return n
}

// escape passes one escape sequence.
func (s *scanner) escape() bool {
	s.pos++
	c := s.peek()
	s.pos++
	if c == 'u' {
		return s.hex4() >= 0
	}
	return c != 0 && strings.IndexByte(`"\/bfnrt`, c) >= 0
}

// hex4 passes four hexadecimal digits and gives their value, −1 if they are
// not there.
func (s *scanner) hex4() rune {
	var r rune
	for range 4 {
		digit := strings.IndexByte("0123456789abcdef", lower(s.peek()))
		if digit < 0 {
			return -1
		}
		r = r<<4 | rune(digit)
		s.pos++
	}
	return r
}

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		return c | 0x20
	}
	return c
}

// text passes a string and resolves its escapes. Half of a surrogate pair is a
// failure: readers differ on what it means.
func (s *scanner) text() (string, bool) {
	raw, ok := s.rawText()
	if !ok || bytes.IndexByte(raw, '\\') < 0 {
		return string(raw), ok
	}
	return unescape(raw)
}

// unescape resolves the escapes of a string that rawText has checked.
func unescape(raw []byte) (string, bool) {
	var out strings.Builder
	s := scanner{data: raw}
	for s.pos < len(raw) {
		c := raw[s.pos]
		s.pos++
		if c != '\\' {
			out.WriteByte(c)
			continue
		}
		r, ok := s.resolve()
		if !ok {
			return "", false
		}
		out.WriteRune(r)
	}
	return out.String(), true
}

// resolve reads what follows a backslash.
func (s *scanner) resolve() (rune, bool) {
	c := s.peek()
	s.pos++
	if c != 'u' {
		return rune(simple[c]), true
	}
	r := s.hex4()
	if !utf16.IsSurrogate(r) {
		return r, true
	}
	if !s.literal(`\u`) {
		return 0, false
	}
	whole := utf16.DecodeRune(r, s.hex4())
	return whole, whole != utf8.RuneError
}

// simple are the one-letter escapes.
var simple = [256]byte{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}
