package svid

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxJSONDepth bounds how deep objects and arrays of a token may nest.
const maxJSONDepth = 16

// errDuplicate says that an object has two members of one name. Names that
// differ only in case or in how they are escaped count as one, because readers
// differ on which of them they take.
var errDuplicate = errors.New("a member appears twice")

// readObject reads one JSON object strictly (RFC 8259): valid UTF-8, nothing
// before or after it, no name twice at any depth. Numbers become json.Number.
func readObject(b []byte) (map[string]any, error) {
	switch {
	case !utf8.Valid(b):
		return nil, errors.New("it is not UTF-8")
	case len(b) == 0 || b[0] != '{':
		return nil, errors.New("it does not begin as a JSON object")
	case !json.Valid(b):
		return nil, errors.New("it is not valid JSON")
	}
	r := objectReader{json.NewDecoder(bytes.NewReader(b))}
	r.UseNumber()
	value, err := r.value(0)
	if err != nil {
		return nil, err
	}
	return value.(map[string]any), nil
}

// objectReader builds values from tokens of JSON that is known to be valid.
type objectReader struct{ *json.Decoder }

func (r objectReader) value(depth int) (any, error) {
	token, err := r.Token()
	if err != nil {
		return nil, err
	}
	delim, nested := token.(json.Delim)
	switch {
	case !nested:
		return token, nil
	case depth == maxJSONDepth:
		return nil, errors.New("it is nested too deep")
	case delim == '{':
		return r.object(depth)
	}
	return r.array(depth)
}

func (r objectReader) object(depth int) (any, error) {
	members := map[string]any{}
	seen := map[string]bool{}
	for r.More() {
		token, err := r.Token()
		if err != nil {
			return nil, err
		}
		name, ok := token.(string)
		if !ok {
			return nil, errors.New("a member's name is not text")
		}
		folded := fold(name)
		if seen[folded] {
			return nil, errDuplicate
		}
		seen[folded] = true
		if members[name], err = r.value(depth + 1); err != nil {
			return nil, err
		}
	}
	_, err := r.Token() // the closing brace
	return members, err
}

func (r objectReader) array(depth int) (any, error) {
	list := []any{}
	for r.More() {
		value, err := r.value(depth + 1)
		if err != nil {
			return nil, err
		}
		list = append(list, value)
	}
	_, err := r.Token() // the closing bracket
	return list, err
}

// fold maps all names that are equal under Unicode case folding to one.
func fold(name string) string { return strings.Map(foldRune, name) }

// foldRune gives one rune for all that fold to the same: the lower-case ASCII
// letter if there is one among them, else the least.
func foldRune(r rune) rune {
	if r < utf8.RuneSelf {
		return unicode.ToLower(r)
	}
	least := r
	for next := unicode.SimpleFold(r); next != r; next = unicode.SimpleFold(next) {
		least = min(least, next)
	}
	if least < utf8.RuneSelf {
		return unicode.ToLower(least)
	}
	return least
}
