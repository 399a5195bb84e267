package strictjson

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/wire"
)

func TestDecode(t *testing.T) {
	nested := func(n int) string {
		return `{"data": ` + strings.Repeat("[", n) + strings.Repeat("]", n) + `}`
	}
	for name, c := range map[string]struct {
		decode   func([]byte, any) error
		text     string
		accepted bool
	}{
		"unknown field":             {Decode, `{"x": 1}`, false},
		"unknown field, tolerant":   {DecodeKnown, `{"x": 1}`, true},
		"duplicate, tolerant":       {DecodeKnown, `{"csr": "", "csr": ""}`, false},
		"duplicate below, tolerant": {DecodeKnown, `{"data": {"a": 1, "a": 2}}`, false},
		"same key in two objects":   {DecodeKnown, `{"data": [{"a": 1}, {"a": 2}]}`, true},
		"other capitals":            {Decode, `{"CSR": ""}`, false},
		"kelvin sign for k":         {Decode, "{\"to\u212aen\": \"\"}", false},
		"nested at the limit":       {DecodeKnown, nested(MaxDepth), true},
		"nested too deep":           {DecodeKnown, nested(MaxDepth + 1), false},
		"two documents":             {DecodeKnown, `{} {}`, false},
		"trailing comma":            {DecodeKnown, `{"csr": "",}`, false},
		"bare word":                 {DecodeKnown, `{csr: ""}`, false},
		"NaN":                       {DecodeKnown, `{"csr": NaN}`, false},
		"byte order mark":           {DecodeKnown, "\ufeff{}", false},
		"white space around":        {Decode, " \n{}\t ", true},
		"array":                     {DecodeKnown, `[]`, false},
		"null":                      {DecodeKnown, `null`, false},
	} {
		t.Run(name, func(t *testing.T) {
			var into wire.AttestRequest
			err := c.decode([]byte(c.text), &into)
			if (err == nil) != c.accepted {
				t.Errorf("got %v, want it accepted: %v", err, c.accepted)
			}
			if err != nil && identity.CodeOf(err) != identity.Invalid {
				t.Errorf("code %s", identity.CodeOf(err))
			}
		})
	}
}

// document is like what administrators write.
type document struct {
	Tenant string `json:"tenant_id"`
	identity.Spec
}

// FuzzDecode checks against encoding/json: what we accept, it accepts, and
// writing and reading it again gives the same.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{`{}`, `{"spiffe_id": "spiffe://a/b", "renew_at": 0.5, "selectors": {"unix:uid": "1"}, "ttl": 60}`, `{"ttl": 1, "tt\u006c": 2}`, `{"a":{"b":[1,{}]}}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var got document
		if Decode(raw, &got) != nil {
			return
		}
		var plain document
		if err := json.Unmarshal(raw, &plain); err != nil {
			t.Fatalf("encoding/json refuses what we accept: %v", err)
		}
		if !reflect.DeepEqual(got, plain) {
			t.Fatalf("we read %+v, encoding/json %+v", got, plain)
		}
	})
}
