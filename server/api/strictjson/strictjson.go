// Package strictjson decodes the JSON that people and agents send, and refuses
// what can be read in two ways: encoding/json lets the last of two equal keys
// win, matches field names in any capitals, and replaces what is not Unicode.
package strictjson

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/authsec-ai/icp/identity"
)

// MaxDepth is how deep a document may be nested.
const MaxDepth = 32

// Decode reads the one JSON object that raw holds into the struct that into
// points to. A field that the struct does not have is an error, also if it
// differs in capitals alone. Errors are *identity.Error with code Invalid.
func Decode(raw []byte, into any) error { return decode(raw, into, true) }

// DecodeKnown is Decode that skips fields which the struct does not have.
func DecodeKnown(raw []byte, into any) error { return decode(raw, into, false) }

func decode(raw []byte, into any, exact bool) error {
	trimmed := bytes.TrimSpace(raw)
	if len(trimmed) == 0 {
		return identity.Errorf(identity.Invalid, "body is empty; send a JSON object")
	}
	if !utf8.Valid(raw) {
		return identity.Errorf(identity.Invalid, "body is not UTF-8")
	}
	if trimmed[0] != '{' {
		return identity.Errorf(identity.Invalid, "body is not a JSON object")
	}
	if err := checkKeys(raw, exact); err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	if exact {
		dec.DisallowUnknownFields()
	}
	if err := dec.Decode(into); err != nil {
		return decodeError(err)
	}
	return nil
}

// decodeError says in our words what encoding/json did not like.
func decodeError(err error) error {
	var typed *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	var binary base64.CorruptInputError
	switch {
	case identity.CodeOf(err) != identity.Internal:
		return err
	case errors.As(err, &typed):
		return identity.Errorf(identity.Invalid, "field %q can't be a %s", identity.Clip(typed.Field), typed.Value)
	case errors.As(err, &binary):
		return identity.Errorf(identity.Invalid, "a field that holds bytes is not in base64")
	case errors.As(err, &syntax):
		return identity.Errorf(identity.Invalid, "body is not valid JSON after byte %d", syntax.Offset)
	}
	if field, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return unknownField(strings.Trim(field, `"`))
	}
	return identity.Errorf(identity.Invalid, "body does not decode: %s", identity.Clip(err.Error()))
}

func unknownField(name string) error {
	return identity.Errorf(identity.Invalid, "field %q is not known here", identity.Clip(name))
}

// checkKeys walks the document before it is decoded.
func checkKeys(raw []byte, exact bool) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	w := keyWalker{dec: dec, exact: exact}
	if err := w.value(0, false); err != nil {
		if identity.CodeOf(err) == identity.Internal {
			err = identity.Errorf(identity.Invalid, "body is not valid JSON after byte %d", dec.InputOffset())
		}
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return identity.Errorf(identity.Invalid, "body goes on after the JSON object at byte %d", dec.InputOffset())
	}
	return nil
}

// keyWalker looks at every key and text of a document. Keys arrive unescaped,
// so "tt\u006c" is the same as "ttl" here.
type keyWalker struct {
	dec   *json.Decoder
	exact bool // field names must be spelled as documented
}

// value reads one value. Keys of a free object are data and not field names.
func (w *keyWalker) value(depth int, free bool) error {
	if depth > MaxDepth {
		return identity.Errorf(identity.Invalid, "body is nested more than %d deep", MaxDepth)
	}
	token, err := w.dec.Token()
	if err != nil {
		return err
	}
	switch token := token.(type) {
	case string:
		return checkText(token)
	case json.Delim:
		if token == '{' {
			return w.object(depth, free)
		}
		return w.array(depth, free)
	}
	return nil
}

func (w *keyWalker) object(depth int, free bool) error {
	seen := map[string]bool{}
	for w.dec.More() {
		token, err := w.dec.Token()
		if err != nil {
			return err
		}
		key, ok := token.(string)
		if !ok {
			return identity.Errorf(identity.Invalid, "body is not valid JSON after byte %d", w.dec.InputOffset())
		}
		if err := w.key(key, seen, free); err != nil {
			return err
		}
		if err := w.value(depth+1, free || slices.Contains(freeObjects(), key)); err != nil {
			return err
		}
	}
	_, err := w.dec.Token() // the closing brace
	return err
}

func (w *keyWalker) array(depth int, free bool) error {
	for w.dec.More() {
		if err := w.value(depth+1, free); err != nil {
			return err
		}
	}
	_, err := w.dec.Token() // the closing bracket
	return err
}

// key refuses a key that was there already. encoding/json would let the last
// one win, and would match field names in any capitals.
func (w *keyWalker) key(key string, seen map[string]bool, free bool) error {
	if err := checkText(key); err != nil {
		return err
	}
	if seen[key] {
		return identity.Errorf(identity.Invalid, "field %q is given twice", identity.Clip(key))
	}
	seen[key] = true
	if w.exact && !free && strings.Trim(key, FieldNameBytes) != "" {
		return unknownField(key)
	}
	return nil
}

// FieldNameBytes are those that names of fields may be made of, in the structs
// that Decode fills.
const FieldNameBytes = "abcdefghijklmnopqrstuvwxyz0123456789_"

// freeObjects are the fields whose object's keys the sender chooses.
func freeObjects() []string { return []string{"selectors", "data"} }

// checkText refuses what stands for bytes that can't be decoded: half of a
// surrogate pair becomes this rune.
func checkText(s string) error {
	if strings.ContainsRune(s, utf8.RuneError) {
		return identity.Errorf(identity.Invalid, "text %q has a character that is not Unicode", identity.Clip(s))
	}
	return nil
}
