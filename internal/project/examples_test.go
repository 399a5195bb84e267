package project

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/authsec-ai/icp/policy"
)

var fence = regexp.MustCompile("(?s)```(\\w*)\n(.*?)```")

// blocks gives the code blocks of a page in one language.
func blocks(t *testing.T, page, language string) []string {
	t.Helper()
	var found []string
	for _, block := range fence.FindAllStringSubmatch(readPage(t, page), -1) {
		if block[1] == language {
			found = append(found, block[2])
		}
	}
	return found
}

// TestPolicyExamples checks that the policies shown are policies.
func TestPolicyExamples(t *testing.T) {
	single := blocks(t, "docs/policy.md", "json")
	sets := blocks(t, "docs/policy.md", "yaml")
	if len(single) == 0 || len(sets) == 0 {
		t.Fatal("the page shows no example")
	}
	for _, text := range single {
		var p policy.Policy
		dec := json.NewDecoder(strings.NewReader(text))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&p); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if _, err := policy.Compile([]policy.Policy{p}); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	for _, text := range sets {
		set, err := policy.ParseSet([]byte(text))
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if _, err := policy.Compile(set.Policies); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// TestEnvoyExample checks that the Envoy configuration shown is the one that a
// real Envoy runs in e2e/envoy, with its blanks filled in.
func TestEnvoyExample(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(root, "e2e/envoy/testdata/envoy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	want := strings.NewReplacer("{{.AdminPort}}", "9901", "{{.Port}}", "8443", "{{.Socket}}", "/run/spire/sockets/agent.sock",
		"{{.API}}", "GRPC", "{{.CertificateName}}", "default", "{{.ValidationName}}", "ROOTCA",
		"{{.ClientID}}", "spiffe://example.org/client").Replace(string(raw))
	shown := blocks(t, "docs/sds-envoy.md", "yaml")
	if len(shown) != 1 || shown[0] != want {
		t.Errorf("docs/sds-envoy.md shows another configuration than e2e/envoy/testdata/envoy.yaml, which should read\n%s", want)
	}
}

var link = regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)

// TestLinksOfPages checks that what pages link to in the tree exists.
func TestLinksOfPages(t *testing.T) {
	pages, err := filepath.Glob(filepath.Join(root, "docs/*.md"))
	if err != nil {
		t.Fatal(err)
	}
	top, err := filepath.Glob(filepath.Join(root, "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range append(pages, top...) {
		raw, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, target := range link.FindAllStringSubmatch(string(raw), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), target[1])); err != nil {
				t.Errorf("%s links to %s, which is not there", page, target[1])
			}
		}
	}
}

var instrument = regexp.MustCompile(`\.(Int64Counter|Float64Histogram|Int64UpDownCounter|Int64ObservableGauge|Float64ObservableGauge)\(\s*"(icp[^"]+)"`)

// TestMetricsPage checks that docs/operations.md lists every metric by the name
// that Prometheus gets.
func TestMetricsPage(t *testing.T) {
	page := readPage(t, "docs/operations.md")
	suffix := map[string]string{"Int64Counter": "_total`", "Float64Histogram": "_seconds`", "Int64UpDownCounter": "`", "Int64ObservableGauge": "`"}
	seen := 0
	walkGo(t, func(path string) {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, made := range instrument.FindAllStringSubmatch(string(raw), -1) {
			seen++
			name := "`" + strings.ReplaceAll(made[2], ".", "_") + suffix[made[1]]
			if !strings.Contains(page, name) {
				t.Errorf("%s makes %s, which docs/operations.md does not list", path, name)
			}
		}
	})
	if seen < 15 {
		t.Fatalf("only %d instruments found: the check sees nothing", seen)
	}
}
