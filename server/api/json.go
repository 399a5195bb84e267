package api

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/authsec-ai/icp/identity"
)

// body says what request body a route takes.
type body int

const (
	none        body = iota // none is read
	strict                  // JSON from people: an unknown field is an error
	curlDefault             // strict, also under the content type that curl sends unasked
	tolerant                // JSON from agents: unknown fields are ignored, so that versions can differ
)

const (
	maxBodyBytes = 1 << 20 // from people
	maxWireBytes = 4 << 20 // from agents: 500 signing requests with their selectors
	maxDepth     = 32      // of nesting
)

func (b body) limit() int64 {
	if b == tolerant {
		return maxWireBytes
	}
	return maxBodyBytes
}

// checkContentType accepts JSON, and requests that don't say what they are.
func (b body) checkContentType(header http.Header) error {
	if encoding := header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
		return identity.Errorf(identity.Unsupported, "content encoding %q is not accepted; send the body uncompressed", identity.Clip(encoding))
	}
	contentType := header.Get("Content-Type")
	if contentType == "" {
		return nil
	}
	media, params, err := mime.ParseMediaType(contentType)
	charset := strings.ToLower(params["charset"])
	switch {
	case err == nil && media == "application/json" && (charset == "" || charset == "utf-8"):
		return nil
	case err == nil && media == "application/merge-patch+json":
		return nil
	case b == curlDefault && media == "application/x-www-form-urlencoded":
		return nil
	}
	return identity.Errorf(identity.Unsupported, "content type %q is not accepted; send application/json in UTF-8", identity.Clip(contentType))
}

// read gives a request's whole body, which must be within the limit.
func (b body) read(r *http.Request) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(r.Body, b.limit()+1))
	if err != nil {
		return nil, &identity.Error{Code: identity.Invalid, Message: "body could not be read to its end", Err: err}
	}
	if int64(len(raw)) > b.limit() {
		return nil, identity.Errorf(identity.TooLarge, "body is over the limit of %d bytes", b.limit())
	}
	return raw, nil
}

// decode reads one JSON document into the struct that into points to. What can
// be read in two ways is refused: duplicate keys, trailing data, text that is
// not UTF-8. Unless tolerant, so are unknown fields, also other capitals.
func (b body) decode(raw []byte, into any) error {
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
	if err := b.checkKeys(raw); err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	if b != tolerant {
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
func (b body) checkKeys(raw []byte) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	w := keyWalker{dec: dec, exact: b != tolerant}
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
	if depth > maxDepth {
		return identity.Errorf(identity.Invalid, "body is nested more than %d deep", maxDepth)
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
	if w.exact && !free && strings.Trim(key, fieldNameBytes) != "" {
		return unknownField(key)
	}
	return nil
}

// fieldNameBytes are those that names of fields are made of.
const fieldNameBytes = "abcdefghijklmnopqrstuvwxyz0123456789_"

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
