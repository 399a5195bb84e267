// Package config reads a program's strict YAML file and lets the environment
// override it: PREFIX_SECTION__KEY sets key of section.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"gopkg.in/yaml.v3"
)

// Load fills into (a pointer to a struct with yaml tags that already holds the
// defaults) from the file at path, if path is not empty, and then from the
// variables of environ ("KEY=value") that start with prefix. An unknown key in
// either is an error that names it.
func Load(path, prefix string, environ []string, into any) error {
	if path != "" {
		raw, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read the configuration: %w", err)
		}
		if err := decode(raw, into); err != nil {
			return fmt.Errorf("configuration %s: %w", path, err)
		}
	}
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		keys, ok := strings.CutPrefix(name, prefix)
		if !ok {
			continue
		}
		if err := decode(override(strings.ToLower(keys), value), into); err != nil {
			return fmt.Errorf("environment variable %s: %w", name, err)
		}
	}
	return nil
}

// override writes one variable as the YAML document that sets it.
func override(keys, value string) []byte {
	var doc strings.Builder
	indent := ""
	for _, key := range strings.Split(keys, "__") {
		if indent != "" {
			doc.WriteString("\n")
		}
		doc.WriteString(indent + key + ":")
		indent += "  "
	}
	scalar, err := yaml.Marshal(value)
	if err != nil || needsRaw(value) {
		scalar = []byte(value)
	}
	doc.WriteString(" " + strings.TrimSpace(string(scalar)) + "\n")
	return []byte(doc.String())
}

// needsRaw reports whether value is to be read as YAML itself, so that numbers
// and flags keep their type.
func needsRaw(value string) bool {
	var v any
	if yaml.Unmarshal([]byte(value), &v) != nil {
		return false
	}
	switch v.(type) {
	case bool, int, float64:
		return true
	case []any:
		return strings.HasPrefix(value, "[")
	}
	return false
}

func decode(raw []byte, into any) error {
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	dec.KnownFields(true)
	if err := dec.Decode(into); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}
