package policy_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/policy"
)

const yamlSet = `# who may use which model
revision: 7
policies:
  - name: sales-bot-llm
    effect: allow
    subjects: ["spiffe://dev.icp.internal/ai-agents/sales-bot"]
    service: llm
    methods: [POST]
    paths: [/v1/chat/completions]
    models: [customer-service-llm, 2024-10-22]
    limits: {requests_per_minute: 600, max_svid_lifetime: 10m}
`

const jsonSet = `{"revision": 7, "policies": [{"name": "sales-bot-llm", "effect": "allow",
	"subjects": ["spiffe://dev.icp.internal/ai-agents/sales-bot"], "service": "llm",
	"methods": ["POST"], "paths": ["/v1/chat/completions"],
	"models": ["customer-service-llm", "2024-10-22"], "when": "",
	"limits": {"requests_per_minute": 600, "max_svid_lifetime": 600}}]}`

func TestParseSet(t *testing.T) {
	want := policy.Set{Revision: 7, Policies: []policy.Policy{{
		Name: "sales-bot-llm", Effect: policy.Allow, Subjects: []string{"spiffe://dev.icp.internal/ai-agents/sales-bot"},
		Service: "llm", Methods: []string{"POST"}, Paths: []string{"/v1/chat/completions"},
		Models: []string{"customer-service-llm", "2024-10-22"},
		Limits: &policy.Limits{RequestsPerMinute: 600, MaxSVIDLifetime: 10 * minute},
	}}}
	for name, text := range map[string]string{"YAML": yamlSet, "JSON": jsonSet} {
		got, err := policy.ParseSet([]byte(text))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
	}
}

func TestParseSetRefuses(t *testing.T) {
	for _, c := range []struct{ name, old, new, want string }{
		{"V-54/header rule", "    service: llm\n", "    service: llm\n    headers: {role: admin}\n", `unknown field "headers"`},
		{"unknown key", "revision: 7", "revison: 7", `unknown field "revison"`},
		{"key twice", "    effect: allow\n", "    effect: deny\n    effect: allow\n", `line 6: key "effect" is given twice`},
		{"other case", "    effect: allow\n", "    effect: deny\n    Effect: allow\n", `key "Effect" is not known`},
		{"Kelvin sign", "    methods:", "    methodſ:", "is not known"},
		{"merge key", "    effect: allow\n", "    <<: {effect: allow}\n", `key "<<" is not known`},
		{"alias", "service: llm", "service: *x", "not valid YAML"},
		{"second document", "revision: 7", "revision: 7\n---\nrevision: 8", "something after the document"},
		{"text for a list", "[POST]", "POST", "policies.methods: a string does not belong here"},
		{"number for text", "name: sales-bot-llm", "name: 7", "policies.name: a number does not belong here"},
		{"hexadecimal", "revision: 7", "revision: 0x7", "write the number \"0x7\" in decimal"},
		{"duration", "10m", "soon", "is not a duration"},
		{"rate of zero", "requests_per_minute: 600", "requests_per_minute: 0", "limits.requests_per_minute: 0 is no limit"},
		{"lifetime of zero", "10m", "0s", "limits.max_svid_lifetime: 0 is no limit"},
		{"unknown limit", "requests_per_minute: 600", "requests_per_hour: 600", `unknown field "requests_per_hour"`},
		{"tag", "service: llm", "service: !!binary bGxt", "!!binary is not accepted"},
		{"depth", "service: llm", "service: " + strings.Repeat("[", 20) + strings.Repeat("]", 20), "nest deeper"},
		{"newer engine", "revision: 7", "min_engine: 99\nnew_field: 1", "the policies need engine version 99"},
	} {
		t.Run(c.name, func(t *testing.T) { wantParseError(t, strings.Replace(yamlSet, c.old, c.new, 1), c.want) })
	}
	for _, c := range []struct{ name, old, new, want string }{
		{"unknown key", `"revision"`, `"revison"`, `unknown field "revison"`},
		{"key twice", `"effect": "allow"`, `"effect": "deny", "effect": "allow"`, `key "effect" is given twice`},
		{"key twice, escaped", `"effect": "allow"`, `"effect": "deny", "\u0065ffect": "allow"`, `key "effect" is given twice`},
		{"other case", `"effect": "allow"`, `"Effect": "allow"`, `key "Effect" is not known`},
		{"second document", `600}}]}`, `600}}]} {}`, "something after the document"},
		{"cut off", `600}}]}`, `600}}]`, "not valid JSON"},
		{"comma", `"when": "",`, `"when": "",,`, "not valid JSON"},
		{"depth", `"when": ""`, `"when": ` + strings.Repeat("[", 20) + strings.Repeat("]", 20), "nest deeper"},
		{"newer engine", `"revision": 7`, `"min_engine": 99, "new_field": 1`, "the policies need engine version 99"},
	} {
		t.Run("JSON "+c.name, func(t *testing.T) { wantParseError(t, strings.Replace(jsonSet, c.old, c.new, 1), c.want) })
	}
	for name, text := range map[string]string{"empty": "", "spaces": " \n", "comment": "# nothing\n"} {
		t.Run(name, func(t *testing.T) { wantParseError(t, text, "the document is empty") })
	}
	for name, text := range map[string]string{"null": "null", "list": "[]", "text": "policies"} {
		t.Run(name, func(t *testing.T) { wantParseError(t, text, "the document must be an object") })
	}
}

func wantParseError(t *testing.T, text, want string) {
	t.Helper()
	_, err := policy.ParseSet([]byte(text))
	code := identity.CodeOf(err)
	if (code != identity.Invalid && code != identity.Unsupported) || !strings.Contains(identity.MessageOf(err), want) {
		t.Errorf("got %v, want %q", err, want)
	}
}

// FuzzParseSet: what is parsed survives a round trip, and what compiles decides
// as the reference does.
func FuzzParseSet(f *testing.F) {
	f.Add([]byte(yamlSet), "spiffe://dev.icp.internal/ai-agents/sales-bot", "/v1/chat/completions", "customer-service-llm")
	f.Add([]byte(jsonSet), "spiffe://dev.icp.internal/ai-agents/sales-bot", "/v1//chat", "2024-10-22")
	f.Add([]byte(`{"policies": [{"name": "d", "effect": "deny", "subjects": ["spiffe://td/**"], "service": "llm", "methods": ["*"], "paths": ["/**"]}]}`),
		"spiffe://td/a", "/", "")
	f.Fuzz(func(t *testing.T, raw []byte, subject, path, model string) {
		set, err := policy.ParseSet(raw)
		if err != nil {
			if identity.CodeOf(err) == identity.Internal {
				t.Errorf("an error without code: %v", err)
			}
			return
		}
		text, err := json.Marshal(set)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := policy.ParseSet(text); err != nil || !reflect.DeepEqual(normal(again), normal(set)) {
			t.Errorf("round trip of %s: %v, %+v", text, err, again)
		}
		compareDecisions(t, set.Policies, subject, path, model)
	})
}

// normal makes nil what JSON leaves out.
func normal(s policy.Set) policy.Set {
	for i := range s.Policies {
		p := &s.Policies[i]
		for _, list := range []*[]string{&p.Models, &p.Tools} {
			if len(*list) == 0 {
				*list = nil
			}
		}
	}
	return s
}

func compareDecisions(t *testing.T, policies []policy.Policy, subject, path, model string) {
	compiled, err := policy.Compile(policies)
	if err != nil {
		return
	}
	id, err := identity.ParseWorkloadID(subject)
	if err != nil {
		return
	}
	for _, p := range policies {
		req := policy.Request{Subject: id, Service: p.Service, Method: p.Methods[0], Path: path, Model: model}
		got := compiled.Decide(req)
		if got.Reason == policy.ReasonPath {
			continue
		}
		if allowed, by := reference(policies, req); got.Allowed != allowed || got.Policy != by {
			t.Errorf("Decide gives %+v, the reference allowed=%v by %q for %+v", got, allowed, by, req)
		}
	}
}

// FuzzDecide: whatever the request, no path that is not canonical is allowed,
// and index and reference agree.
func FuzzDecide(f *testing.F) {
	f.Add("spiffe://td/a", "spiffe://td/a/b", "/v1/**", "/v1/x", "POST", "m")
	f.Add("spiffe://td/a/**", "spiffe://td/a", "/v1", "/v1/../x", "get", "")
	f.Fuzz(func(t *testing.T, pattern, subject, pathPattern, path, method, model string) {
		p := allow("p", pattern)
		p.Methods, p.Paths = []string{"*"}, []string{pathPattern, "/**"}
		deny := allow("q", pattern)
		deny.Effect, deny.Methods, deny.Paths, deny.Models = policy.Deny, []string{"*"}, []string{pathPattern}, []string{"m"}
		compiled, err := policy.Compile([]policy.Policy{p, deny})
		if err != nil {
			return
		}
		id, err := identity.ParseWorkloadID(subject)
		if err != nil {
			return
		}
		req := policy.Request{Subject: id, Service: "api", Method: method, Path: path, Model: model}
		got := compiled.Decide(req)
		doubtful := !strings.HasPrefix(path, "/") || strings.Contains(path, "//") || strings.ContainsAny(path, "\\?#;\x00") ||
			strings.Contains(path+"/", "/./") || strings.Contains(path+"/", "/../")
		if doubtful != (got.Reason == policy.ReasonPath) {
			t.Fatalf("path %q: %+v", path, got)
		}
		if doubtful {
			return
		}
		if allowed, by := reference([]policy.Policy{p, deny}, req); got.Allowed != allowed || got.Policy != by {
			t.Errorf("Decide gives %+v, the reference allowed=%v by %q", got, allowed, by)
		}
	})
}
