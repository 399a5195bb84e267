package document_test

import (
	"strings"
	"testing"

	"github.com/authsec-ai/icp/internal/document"
)

// Both forms of a document give the same JSON. What is refused, and how it is
// told, is tested where it matters most: on policies.
func TestToJSON(t *testing.T) {
	const want = `{"list":[1,2.50,true,null,"2024-10-22","007x"],"selectors":{"k8s:pod-label:App":"Web"}}`
	for name, text := range map[string]string{
		"YAML": "selectors: {'k8s:pod-label:App': Web}\nlist: [1, 2.50, true, null, 2024-10-22, 007x]\n",
		"JSON": ` {"selectors": {"k8s:pod-label:App": "Web"}, "list": [1, 2.50, true, null, "2024-10-22", "007x"]}` + "\n",
	} {
		got, err := document.ToJSON([]byte(text), "selectors")
		if err != nil || string(got) != want {
			t.Errorf("%s: got %s, %v", name, got, err)
		}
		if _, err := document.ToJSON([]byte(text)); err == nil || !strings.Contains(err.Error(), `key "k8s:pod-label:App" is not known`) {
			t.Errorf("%s: keys are free without leave: %v", name, err)
		}
	}
}

func TestToJSONRefuses(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"free key twice", `{"selectors": {"A:b": "1", "A:b": "2"}}`, "given twice"},
		{"not UTF-8", "name: \"\xff\"", "not UTF-8"},
		{"not an object", "- a\n- b\n", "must be an object"},
		{"alias", "a: &x [1]\nb: *x\n", "aliases are not accepted"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, err := document.ToJSON([]byte(c.text), "selectors"); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %s, %v, want %q", got, err, c.want)
			}
		})
	}
}

func TestDecode(t *testing.T) {
	var into struct {
		Name string `json:"name"`
	}
	if err := document.Decode([]byte(`{"name":"x"}`), &into); err != nil || into.Name != "x" {
		t.Errorf("got %+v, %v", into, err)
	}
	for text, want := range map[string]string{
		`{"name":7}`:    "name: a number does not belong here",
		`{"names":"x"}`: `unknown field "names"`,
	} {
		if err := document.Decode([]byte(text), &into); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
}
