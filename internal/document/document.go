// Package document reads what people write: one YAML or JSON document, strictly.
// A key that is misspelt or given twice could widen access, so unknown and
// repeated keys, other cases of a key, YAML aliases and anything after the
// document are errors.
package document

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// maxDepth is how deep lists and objects may nest.
const maxDepth = 16

// ToJSON reads raw (JSON if it starts with '{', else YAML), whose top is an
// object, and gives it as plain JSON in which no key is there twice. Keys are
// lower-case letters, digits and '_', except in the objects under the keys that
// free lists, where they are data. YAML scalars keep their text unless they are
// written as numbers, true, false or null.
func ToJSON(raw []byte, free ...string) ([]byte, error) {
	if !utf8.Valid(raw) {
		return nil, errors.New("the document is not UTF-8")
	}
	r := reader{free: free}
	var tree any
	var err error
	if trimmed := bytes.TrimSpace(raw); bytes.HasPrefix(trimmed, []byte("{")) {
		tree, err = r.json(trimmed)
	} else {
		tree, err = r.yaml(raw)
	}
	if err != nil {
		return nil, err
	}
	if _, ok := tree.(map[string]any); !ok {
		return nil, errors.New("the document must be an object, key: value")
	}
	return json.Marshal(tree)
}

// Decode fills into from JSON of ToJSON, and refuses keys that it does not have.
func Decode(plain []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(plain))
	dec.DisallowUnknownFields()
	err := dec.Decode(into)
	var wrong *json.UnmarshalTypeError
	switch {
	case errors.As(err, &wrong):
		return fmt.Errorf("%s: a %s does not belong here", wrong.Field, wrong.Value)
	case err != nil && strings.HasPrefix(err.Error(), "json: "):
		return errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
	return err
}

// reader builds the tree that encoding/json would give, with numbers as
// written.
type reader struct {
	free []string
}

// at is where in the document a value stands.
type at struct {
	depth int
	free  bool // keys are data here
}

func (a at) below(key string, free []string) at {
	return at{a.depth + 1, a.free || slices.Contains(free, key)}
}

func (a at) check() error {
	if a.depth > maxDepth {
		return fmt.Errorf("lists and objects nest deeper than %d levels", maxDepth)
	}
	return nil
}

// put adds a key to an object. Only the plain lower-case spelling is a key:
// encoding/json would also take others for the same.
func (a at) put(object map[string]any, key string, value any, where string) error {
	if !a.free && (key == "" || strings.Trim(key, "abcdefghijklmnopqrstuvwxyz0123456789_") != "") {
		return fmt.Errorf("%skey %q is not known; keys are lower-case letters and '_'", where, clip(key))
	}
	if _, twice := object[key]; twice {
		return fmt.Errorf("%skey %q is given twice in one object", where, clip(key))
	}
	object[key] = value
	return nil
}

func clip(s string) string {
	const limit = 64
	if len(s) > limit {
		return s[:limit] + "…"
	}
	return s
}

func (r reader) json(raw []byte) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	tree, err := r.jsonValue(dec, at{})
	if err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is something after the document")
	}
	return tree, nil
}

func (r reader) jsonValue(dec *json.Decoder, here at) (any, error) {
	if err := here.check(); err != nil {
		return nil, err
	}
	token, err := jsonToken(dec)
	if err != nil {
		return nil, err
	}
	switch token {
	case json.Delim('{'):
		return r.jsonObject(dec, here)
	case json.Delim('['):
		return r.jsonList(dec, here)
	}
	return token, nil
}

func jsonToken(dec *json.Decoder) (json.Token, error) {
	token, err := dec.Token()
	if err != nil {
		return nil, fmt.Errorf("not valid JSON at byte %d: %w", dec.InputOffset(), err)
	}
	return token, nil
}

func (r reader) jsonObject(dec *json.Decoder, here at) (any, error) {
	object := map[string]any{}
	for dec.More() {
		token, err := jsonToken(dec)
		if err != nil {
			return nil, err
		}
		key, ok := token.(string)
		if !ok {
			return nil, fmt.Errorf("not valid JSON at byte %d: a key must be text", dec.InputOffset())
		}
		value, err := r.jsonValue(dec, here.below(key, r.free))
		if err != nil {
			return nil, err
		}
		if err := here.put(object, key, value, ""); err != nil {
			return nil, err
		}
	}
	_, err := jsonToken(dec) // the closing brace
	return object, err
}

func (r reader) jsonList(dec *json.Decoder, here at) (any, error) {
	list := []any{}
	for dec.More() {
		value, err := r.jsonValue(dec, here.below("", nil))
		if err != nil {
			return nil, err
		}
		list = append(list, value)
	}
	_, err := jsonToken(dec) // the closing bracket
	return list, err
}

func (r reader) yaml(raw []byte) (any, error) {
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	var doc, next yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF) || err == nil && len(doc.Content) == 0:
		return nil, errors.New("the document is empty")
	case err != nil:
		return nil, fmt.Errorf("not valid YAML: %w", err)
	}
	if err := dec.Decode(&next); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is something after the document")
	}
	return r.yamlValue(doc.Content[0], at{})
}

func (r reader) yamlValue(n *yaml.Node, here at) (any, error) {
	if err := here.check(); err != nil {
		return nil, err
	}
	switch n.Kind {
	case yaml.MappingNode:
		return r.yamlObject(n, here)
	case yaml.SequenceNode:
		return r.yamlList(n, here)
	case yaml.ScalarNode:
		return yamlScalar(n)
	}
	return nil, fmt.Errorf("line %d: aliases are not accepted; write the value out", n.Line)
}

func (r reader) yamlObject(n *yaml.Node, here at) (any, error) {
	object := map[string]any{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		value, err := r.yamlValue(n.Content[i+1], here.below(key.Value, r.free))
		if err != nil {
			return nil, err
		}
		if err := here.put(object, key.Value, value, fmt.Sprintf("line %d: ", key.Line)); err != nil {
			return nil, err
		}
	}
	return object, nil
}

func (r reader) yamlList(n *yaml.Node, here at) (any, error) {
	list := []any{}
	for _, item := range n.Content {
		value, err := r.yamlValue(item, here.below("", nil))
		if err != nil {
			return nil, err
		}
		list = append(list, value)
	}
	return list, nil
}

// yamlScalar keeps text that YAML would make something else of, such as the
// model name 2024-10-22.
func yamlScalar(n *yaml.Node) (any, error) {
	switch n.Tag {
	case "!!str", "!!timestamp":
		return n.Value, nil
	case "!!null":
		return nil, nil
	case "!!int", "!!float":
		if !json.Valid([]byte(n.Value)) {
			return nil, fmt.Errorf("line %d: write the number %q in decimal", n.Line, clip(n.Value))
		}
		return json.Number(n.Value), nil
	case "!!bool":
		return strings.EqualFold(n.Value, "true"), nil
	}
	return nil, fmt.Errorf("line %d: %s is not accepted here", n.Line, clip(n.Tag))
}
