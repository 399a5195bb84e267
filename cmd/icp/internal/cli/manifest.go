package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"gopkg.in/yaml.v3"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/document"
	"github.com/authsec-ai/icp/policy"
)

// manifest is what 'icp apply' brings about and 'icp export' writes. A nil list
// says nothing about that kind of thing; an empty one says that there are none.
type manifest struct {
	Entries  []identity.Spec `json:"entries"`
	Policies []policy.Policy `json:"policies"`
}

// readManifest reads and joins files.
func readManifest(cmd *cobra.Command, files []string, defaultParent string) (manifest, error) {
	var whole manifest
	for _, file := range files {
		raw, err := readFile(cmd, file)
		if err != nil {
			return manifest{}, err
		}
		m, err := parseManifest(raw)
		if err != nil {
			return manifest{}, fmt.Errorf("%s: %w", file, err)
		}
		whole.add(m)
	}
	if err := whole.complete(defaultParent); err != nil {
		return manifest{}, err
	}
	return whole, whole.check()
}

func readFile(cmd *cobra.Command, file string) ([]byte, error) {
	switch file {
	case "":
		return nil, usage(cmd, "name a file with -f, or - for standard input")
	case "-":
		return io.ReadAll(cmd.InOrStdin())
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %s", file, reason(err))
	}
	return raw, nil
}

func parseManifest(raw []byte) (manifest, error) {
	plain, err := document.ToJSON(raw, "selectors")
	if err != nil {
		return manifest{}, err
	}
	var m manifest
	return m, document.Decode(plain, &m)
}

func (m *manifest) add(o manifest) {
	if o.Entries != nil {
		m.Entries = append(append([]identity.Spec{}, m.Entries...), o.Entries...)
	}
	if o.Policies != nil {
		m.Policies = append(append([]policy.Policy{}, m.Policies...), o.Policies...)
	}
}

// complete gives entries without a parent the agent of an 'icp dev'.
func (m *manifest) complete(defaultParent string) error {
	if defaultParent == "" {
		return nil
	}
	parent, err := identity.ParseWorkloadID(defaultParent)
	if err != nil {
		return err
	}
	for i := range m.Entries {
		if m.Entries[i].ParentID.IsZero() {
			m.Entries[i].ParentID = parent
		}
	}
	return nil
}

// check finds what would fail halfway through.
func (m *manifest) check() error {
	if m.Entries == nil && m.Policies == nil {
		return identity.Errorf(identity.Invalid, "there is neither the key entries nor the key policies")
	}
	if _, err := policy.Compile(m.Policies); err != nil {
		return err
	}
	seen := map[string]bool{}
	for i, spec := range m.Entries {
		if spec.SPIFFEID.IsZero() || len(spec.Selectors) == 0 {
			return identity.Errorf(identity.Invalid, "entries[%d]: spiffe_id and selectors are needed", i)
		}
		if seen[entryKey(spec)] {
			return identity.Errorf(identity.Invalid, "entries[%d]: %s is there twice with the same parent and selectors", i, spec.SPIFFEID)
		}
		seen[entryKey(spec)] = true
	}
	return nil
}

// entryKey is what the server allows only one entry to have.
func entryKey(s identity.Spec) string {
	return strings.Join([]string{s.SPIFFEID.String(), s.ParentID.String(), joined(s.Selectors)}, " ")
}

// write prints v as JSON or as YAML with the same keys in the same order.
func (a *app) write(cmd *cobra.Command, v any) error {
	if a.output == asJSON {
		return writeJSON(cmd.OutOrStdout(), v)
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var doc yaml.Node // JSON is YAML, written in another style
	if err := yaml.Unmarshal(raw, &doc); err != nil {
		return err
	}
	plainStyle(&doc)
	var text bytes.Buffer
	enc := yaml.NewEncoder(&text)
	enc.SetIndent(2)
	if err := enc.Encode(&doc); err != nil {
		return err
	}
	_, err = cmd.OutOrStdout().Write(text.Bytes())
	return err
}

// plainStyle has the encoder choose how to write each node; it quotes text
// that would otherwise read as something else.
func plainStyle(n *yaml.Node) {
	n.Style = 0
	if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
		n.Style = yaml.FlowStyle
	}
	for _, child := range n.Content {
		plainStyle(child)
	}
}
