package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/authsec-ai/icp/identity"
)

// maxDepth is how deep lists and objects may nest; a Set needs five levels.
const maxDepth = 16

// ParseSet reads a Set from JSON (text that starts with '{') or YAML. It is
// strict, because a key that is misspelt or given twice could widen access:
// unknown and repeated keys, other cases of a key, YAML aliases and anything
// after the document are refused. The policies themselves are for Compile to
// check. A set that needs a newer engine is refused as such.
func ParseSet(raw []byte) (Set, error) {
	tree, err := parseTree(raw)
	if err != nil {
		return Set{}, identity.Errorf(identity.Invalid, "policies: %s", err)
	}
	plain, err := json.Marshal(tree)
	if err != nil {
		return Set{}, identity.Errorf(identity.Invalid, "policies: %s", err)
	}
	var newer struct {
		MinEngine int `json:"min_engine"`
	}
	if json.Unmarshal(plain, &newer) == nil && newer.MinEngine > EngineVersion {
		return Set{}, (&inForce{}).admits(Set{MinEngine: newer.MinEngine})
	}
	var set Set
	dec := json.NewDecoder(bytes.NewReader(plain))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&set); err != nil {
		return Set{}, identity.Errorf(identity.Invalid, "policies: %s", decodeProblem(err))
	}
	return set, nil
}

// decodeProblem says what encoding/json found, without Go's names for things.
func decodeProblem(err error) string {
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		return fmt.Sprintf("%s: a %s does not belong here", wrong.Field, wrong.Value)
	}
	return strings.TrimPrefix(err.Error(), "json: ")
}

// parseTree reads the document into maps, slices and scalars as encoding/json
// would give them, with numbers as written.
func parseTree(raw []byte) (any, error) {
	if trimmed := bytes.TrimSpace(raw); bytes.HasPrefix(trimmed, []byte("{")) {
		return jsonTree(trimmed)
	}
	tree, err := yamlTree(raw)
	if err != nil {
		return nil, err
	}
	if _, ok := tree.(map[string]any); !ok {
		return nil, errors.New("the document must be an object with the key policies")
	}
	return tree, nil
}

func jsonTree(raw []byte) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	tree, err := jsonValue(dec, maxDepth)
	if err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is something after the document")
	}
	return tree, nil
}

func jsonValue(dec *json.Decoder, depth int) (any, error) {
	if depth == 0 {
		return nil, errTooDeep
	}
	token, err := jsonToken(dec)
	if err != nil {
		return nil, err
	}
	switch token {
	case json.Delim('{'):
		return jsonObject(dec, depth)
	case json.Delim('['):
		return jsonList(dec, depth)
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

func jsonObject(dec *json.Decoder, depth int) (any, error) {
	object := map[string]any{}
	for dec.More() {
		key, err := jsonToken(dec)
		if err != nil {
			return nil, err
		}
		value, err := jsonValue(dec, depth-1)
		if err != nil {
			return nil, err
		}
		if err := put(object, key.(string), value, ""); err != nil {
			return nil, err
		}
	}
	_, err := jsonToken(dec) // the closing brace
	return object, err
}

func jsonList(dec *json.Decoder, depth int) (any, error) {
	list := []any{}
	for dec.More() {
		value, err := jsonValue(dec, depth-1)
		if err != nil {
			return nil, err
		}
		list = append(list, value)
	}
	_, err := jsonToken(dec) // the closing bracket
	return list, err
}

var errTooDeep = fmt.Errorf("lists and objects nest deeper than %d levels", maxDepth)

// put adds a key to an object. Only the plain lower-case spelling is a key:
// encoding/json would also take others for the same.
func put(object map[string]any, key string, value any, where string) error {
	if key == "" || strings.Trim(key, "abcdefghijklmnopqrstuvwxyz_") != "" {
		return fmt.Errorf("%skey %q is not known; keys are lower-case letters and '_'", where, identity.Clip(key))
	}
	if _, twice := object[key]; twice {
		return fmt.Errorf("%skey %q is given twice in one object", where, identity.Clip(key))
	}
	object[key] = value
	return nil
}

func yamlTree(raw []byte) (any, error) {
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
	return yamlValue(doc.Content[0], maxDepth)
}

func yamlValue(n *yaml.Node, depth int) (any, error) {
	if depth == 0 {
		return nil, errTooDeep
	}
	switch n.Kind {
	case yaml.MappingNode:
		return yamlObject(n, depth)
	case yaml.SequenceNode:
		return yamlList(n, depth)
	case yaml.ScalarNode:
		return yamlScalar(n)
	}
	return nil, fmt.Errorf("line %d: aliases are not accepted; write the value out", n.Line)
}

func yamlObject(n *yaml.Node, depth int) (any, error) {
	object := map[string]any{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		value, err := yamlValue(n.Content[i+1], depth-1)
		if err != nil {
			return nil, err
		}
		if err := put(object, key.Value, value, fmt.Sprintf("line %d: ", key.Line)); err != nil {
			return nil, err
		}
	}
	return object, nil
}

func yamlList(n *yaml.Node, depth int) (any, error) {
	list := []any{}
	for _, item := range n.Content {
		value, err := yamlValue(item, depth-1)
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
			return nil, fmt.Errorf("line %d: write the number %q in decimal", n.Line, identity.Clip(n.Value))
		}
		return json.Number(n.Value), nil
	case "!!bool":
		return strings.EqualFold(n.Value, "true"), nil
	}
	return nil, fmt.Errorf("line %d: %s is not accepted here", n.Line, identity.Clip(n.Tag))
}
