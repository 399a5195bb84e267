package identity

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Selector is one attested fact about a process or a node: Type names the
// attestor ("unix", "k8s", "docker"), Value what it saw ("uid:1000",
// "pod-label:app:web"). It is compared byte for byte and never split again.
type Selector struct {
	Type  string
	Value string
}

// String gives the canonical spelling, "type:value".
func (s Selector) String() string { return s.Type + ":" + s.Value }

// MarshalText writes the canonical spelling.
func (s Selector) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what ParseSelector reads.
func (s *Selector) UnmarshalText(b []byte) error {
	parsed, err := ParseSelector(string(b))
	if err == nil {
		*s = parsed
	}
	return err
}

// isLabelled reports whether a key carries a name of its own before the value:
// pod-label:app:web.
func isLabelled(key string) bool {
	switch key {
	case "pod-label", "pod-annotation", "label", "env", "ns-label", "node-label":
		return true
	}
	return false
}

// MaxSelectorBytes is the longest selector, type and value together.
const MaxSelectorBytes = 1024

// ParseSelector reads one selector spelled "type:key:value" or
// "type:key=value"; both give the same Selector.
func ParseSelector(s string) (Selector, error) {
	typ, rest, ok := strings.Cut(s, ":")
	if !ok {
		return Selector{}, Errorf(Invalid, "selector %q has no type; write it as type:key:value, for example unix:uid:1000", Clip(s))
	}
	return makeSelector(typ, rest, s)
}

func makeSelector(typ, rest, whole string) (Selector, error) {
	key, value := cutKey(rest)
	if isLabelled(key) {
		name, labelValue := cutKey(value)
		if name == "" {
			return Selector{}, Errorf(Invalid, "selector %q names no %s", Clip(whole), key)
		}
		key, value = key+":"+name, labelValue
	}
	sel := Selector{Type: typ, Value: key + ":" + value}
	if err := sel.check(); err != nil {
		return Selector{}, err
	}
	if key == "" || value == "" {
		return Selector{}, Errorf(Invalid, "selector %q lacks a key or a value; write it as type:key:value, for example unix:uid:1000", Clip(whole))
	}
	return sel, nil
}

// cutKey splits at the first ':' or '='.
func cutKey(s string) (key, value string) {
	i := strings.IndexAny(s, ":=")
	if i < 0 {
		return s, ""
	}
	return s[:i], s[i+1:]
}

func (s Selector) check() error {
	if len(s.String()) > MaxSelectorBytes {
		return Errorf(Invalid, "selector is %d bytes long; the limit is %d", len(s.String()), MaxSelectorBytes)
	}
	if s.Type == "" || strings.Trim(s.Type, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
		return Errorf(Invalid, "selector type %q must be lower-case letters, digits, '-' or '_'", Clip(s.Type))
	}
	for _, r := range s.Value {
		if unicode.IsControl(r) || r == utf8.RuneError {
			return Errorf(Invalid, "selector %q has a control character or is not UTF-8", Clip(s.String()))
		}
	}
	return nil
}

// Selectors is a set: sorted, without duplicates. Build it with NewSelectors.
type Selectors []Selector

// NewSelectors sorts and de-duplicates.
func NewSelectors(list ...Selector) Selectors {
	set := slices.Clone(list)
	slices.SortFunc(set, compareSelectors)
	return slices.Compact(set)
}

func compareSelectors(a, b Selector) int {
	if c := strings.Compare(a.Type, b.Type); c != 0 {
		return c
	}
	return strings.Compare(a.Value, b.Value)
}

// Contains reports whether every selector of want is in s. An empty want is
// contained in nothing: an entry without selectors must never match.
func (s Selectors) Contains(want Selectors) bool {
	if len(want) == 0 {
		return false
	}
	for _, w := range want {
		if _, ok := slices.BinarySearchFunc(s, w, compareSelectors); !ok {
			return false
		}
	}
	return true
}

// UnmarshalJSON accepts every spelling in use: a list of strings, a list of
// {"type","value"} objects, or an object {"type:key": "value"}. As usual in
// encoding/json, null changes nothing.
func (s *Selectors) UnmarshalJSON(b []byte) error {
	var list []Selector
	var err error
	switch trimmed := bytes.TrimSpace(b); {
	case string(trimmed) == "null":
		return nil
	case bytes.HasPrefix(trimmed, []byte("[")):
		list, err = parseSelectorList(trimmed)
	case bytes.HasPrefix(trimmed, []byte("{")):
		list, err = parseSelectorMap(trimmed)
	default:
		err = Errorf(Invalid, `selectors must be a list such as ["unix:uid:1000"] or an object such as {"unix:uid": "1000"}`)
	}
	if err != nil {
		return err
	}
	*s = NewSelectors(list...)
	return nil
}

func parseSelectorList(b []byte) ([]Selector, error) {
	var items []json.RawMessage
	if err := json.Unmarshal(b, &items); err != nil {
		return nil, Errorf(Invalid, "selectors are not valid JSON")
	}
	list := make([]Selector, 0, len(items))
	for _, item := range items {
		sel, err := parseSelectorItem(item)
		if err != nil {
			return nil, err
		}
		list = append(list, sel)
	}
	return list, nil
}

func parseSelectorItem(item json.RawMessage) (Selector, error) {
	if bytes.HasPrefix(item, []byte("{")) {
		return parseSelectorPair(item)
	}
	var text *string
	if err := json.Unmarshal(item, &text); err != nil || text == nil {
		return Selector{}, Errorf(Invalid, `a selector in the list is neither text nor {"type": …, "value": …}`)
	}
	return ParseSelector(*text)
}

// parseSelectorPair reads {"type": "unix", "value": "uid:1000"}: these two
// members, spelled so, and nothing else.
func parseSelectorPair(b []byte) (Selector, error) {
	members, err := readTextObject(b)
	if err != nil {
		return Selector{}, err
	}
	typ, hasType := members["type"]
	value, hasValue := members["value"]
	if !hasType || !hasValue || len(members) != 2 {
		return Selector{}, Errorf(Invalid, `a selector in the list is neither text nor {"type": …, "value": …}`)
	}
	return makeSelector(typ, value, typ+":"+value)
}

func parseSelectorMap(b []byte) ([]Selector, error) {
	members, err := readTextObject(b)
	if err != nil {
		return nil, err
	}
	list := make([]Selector, 0, len(members))
	for key, value := range members {
		if value == "" {
			return nil, Errorf(Invalid, "selector %q has an empty value", Clip(key))
		}
		sel, err := ParseSelector(key + ":" + value)
		if err != nil {
			return nil, err
		}
		list = append(list, sel)
	}
	return list, nil
}

// readTextObject reads a JSON object of text to text. A member that stands
// there twice is an error, as a reader before us may have taken the other one.
func readTextObject(b []byte) (map[string]string, error) {
	notText := Errorf(Invalid, "selectors given as an object must map text to text")
	dec := json.NewDecoder(bytes.NewReader(b))
	if _, err := dec.Token(); err != nil { // the opening brace
		return nil, notText
	}
	members := map[string]string{}
	for dec.More() {
		key, keyErr := dec.Token()
		value, valueErr := dec.Token()
		name, isName := key.(string)
		text, isText := value.(string)
		if keyErr != nil || valueErr != nil || !isName || !isText {
			return nil, notText
		}
		if _, twice := members[name]; twice {
			return nil, Errorf(Invalid, "selector %q is given twice", Clip(name))
		}
		members[name] = text
	}
	return members, nil
}
