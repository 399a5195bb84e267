package policy_test

import (
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/policy"
)

const minute = identity.Duration(time.Minute)

// allow gives an allow policy for service "api", to be changed by a test.
func allow(name string, subjects ...string) policy.Policy {
	return policy.Policy{Name: name, Effect: policy.Allow, Subjects: subjects, Service: "api", Methods: []string{"GET"}, Paths: []string{"/v1/**"}}
}

// get is a request that allow's policy matches for its subject.
func get(subject string) policy.Request {
	return policy.Request{Subject: spiffeid.RequireFromString(subject), Service: "api", Method: "GET", Path: "/v1/x"}
}

func compile(t *testing.T, policies ...policy.Policy) *policy.Compiled {
	t.Helper()
	c, err := policy.Compile(policies)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// decisionCase is a refused request, and its twin without the defect.
type decisionCase struct {
	row      string
	policies []policy.Policy
	refused  policy.Request
	reason   string
	twin     policy.Request
}

func TestRows(t *testing.T) {
	window := allow("window", "spiffe://td/bot")
	window.Limits = &policy.Limits{MaxSVIDLifetime: 10 * minute}
	lifetime := func(d identity.Duration) policy.Request {
		r := get("spiffe://td/bot")
		r.SVIDLifetime = d
		return r
	}
	for _, c := range []decisionCase{
		{"V-55/metachar", []policy.Policy{allow("p", "spiffe://td/a.b")}, get("spiffe://td/axb"), policy.ReasonDefault, get("spiffe://td/a.b")},
		{"V-55/prefix", []policy.Policy{allow("p", "spiffe://td/a/**")}, get("spiffe://td/ab"), policy.ReasonDefault, get("spiffe://td/a/b")},
		{"V-55/prefix-itself", []policy.Policy{allow("p", "spiffe://td/a/**")}, get("spiffe://td/a"), policy.ReasonDefault, get("spiffe://td/a/b/c")},
		{"V-55/exact-is-no-prefix", []policy.Policy{allow("p", "spiffe://td/a")}, get("spiffe://td/a/b"), policy.ReasonDefault, get("spiffe://td/a")},
		{"V-55/trust-domain", []policy.Policy{allow("p", "spiffe://td/**")}, get("spiffe://td.evil/a"), policy.ReasonDefault, get("spiffe://td/a")},
		{"V-55/other-trust-domain", []policy.Policy{allow("p", "spiffe://td-a/svc")}, get("spiffe://td-b/svc"), policy.ReasonDefault, get("spiffe://td-a/svc")},
		{"ID-19", []policy.Policy{allow("p", "spiffe://td/Svc")}, get("spiffe://td/svc"), policy.ReasonDefault, get("spiffe://td/Svc")},
		{"PX-2/over", []policy.Policy{window}, lifetime(10*minute + identity.Duration(time.Second)), policy.ReasonLifetime, lifetime(10 * minute)},
		{"PX-2/unknown", []policy.Policy{window}, lifetime(0), policy.ReasonLifetime, lifetime(minute)},
		{"PX-3", []policy.Policy{allow("p", "spiffe://authsec.dev/billing/api")}, get("spiffe://authsec.dev/billing/apis"), policy.ReasonDefault, get("spiffe://authsec.dev/billing/api")},
	} {
		compiled := compile(t, c.policies...)
		t.Run(c.row+"/refused", func(t *testing.T) {
			if d := compiled.Decide(c.refused); d.Allowed || d.Reason != c.reason || d.Policy != "" {
				t.Errorf("got %+v, want a refusal because %q", d, c.reason)
			}
		})
		t.Run(c.row+"/twin", func(t *testing.T) {
			if d := compiled.Decide(c.twin); !d.Allowed || d.Policy != c.policies[0].Name || d.Reason != policy.ReasonAllowed {
				t.Errorf("got %+v, want it allowed by %s", d, c.policies[0].Name)
			}
		})
	}
}

// PX-4: each bot may use its own model and not the other's.
func TestModelsOfTwoBots(t *testing.T) {
	llm := func(bot, model string) policy.Policy {
		return policy.Policy{Name: bot, Effect: policy.Allow, Subjects: []string{"spiffe://td/ai-agents/" + bot}, Service: "llm",
			Methods: []string{"POST"}, Paths: []string{"/v1/chat/completions"}, Models: []string{model}}
	}
	compiled := compile(t, llm("sales-bot", "customer-service-llm"), llm("finance-bot", "financial-analysis-llm"))
	ask := func(bot, model string) policy.Request {
		return policy.Request{Subject: spiffeid.RequireFromString("spiffe://td/ai-agents/" + bot), Service: "llm",
			Method: "POST", Path: "/v1/chat/completions", Model: model}
	}
	for _, c := range []struct {
		bot, model string
		allowed    bool
	}{
		{"sales-bot", "customer-service-llm", true},
		{"sales-bot", "financial-analysis-llm", false},
		{"finance-bot", "financial-analysis-llm", true},
		{"finance-bot", "customer-service-llm", false},
		{"sales-bot", "Customer-service-llm", false},
		{"sales-bot", "customer-service-llm-2026-01-01", false}, // P-60
		{"sales-bot", "", false},                                // P-53
		{"other-bot", "customer-service-llm", false},
	} {
		t.Run("PX-4/"+c.bot+"/"+c.model, func(t *testing.T) {
			req := ask(c.bot, c.model)
			if d := compiled.Decide(req); d.Allowed != c.allowed {
				t.Errorf("Decide gives %+v, want allowed=%v", d, c.allowed)
			}
			if got := compiled.AllowsModel(req); got != c.allowed { // P-61
				t.Errorf("AllowsModel gives %v, want %v", got, c.allowed)
			}
		})
	}
}

// PX-10: methods and paths.
func TestMethodsAndPaths(t *testing.T) {
	p := allow("p", "spiffe://td/a")
	p.Methods, p.Paths = []string{"GET", "PUT"}, []string{"/v1/orders", "/v1/orders/**", "/health"}
	secret := allow("no-secrets", "spiffe://td/**")
	secret.Effect, secret.Methods, secret.Paths = policy.Deny, []string{"*"}, []string{"/v1/orders/secret/**"}
	compiled := compile(t, p, secret)
	for _, c := range []struct {
		method, path string
		reason       string
	}{
		{"GET", "/v1/orders", policy.ReasonAllowed},
		{"PUT", "/v1/orders/7", policy.ReasonAllowed},
		{"GET", "/v1/orders/7/lines", policy.ReasonAllowed},
		{"GET", "/v1/orders/", policy.ReasonAllowed},
		{"GET", "/health", policy.ReasonAllowed},
		{"DELETE", "/v1/orders/7", policy.ReasonDefault},
		{"get", "/v1/orders", policy.ReasonDefault}, // P-45
		{"", "/v1/orders", policy.ReasonDefault},
		{"GET", "/v1/orders2", policy.ReasonDefault},
		{"GET", "/v1/Orders", policy.ReasonDefault},
		{"GET", "/health/", policy.ReasonDefault},
		{"GET", "/v1/orders/secret/1", policy.ReasonDenied},
		{"GET", "//v1/orders", policy.ReasonPath},
		{"GET", "/v1/orders/../admin", policy.ReasonPath},
		{"GET", "/v1/orders/.", policy.ReasonPath},
		{"GET", "/v1/orders;x=y", policy.ReasonPath},
		{"GET", `/v1/orders\7`, policy.ReasonPath},
		{"GET", "/v1/orders?x", policy.ReasonPath},
		{"GET", "/v1/orders#x", policy.ReasonPath},
		{"GET", "v1/orders", policy.ReasonPath},
		{"GET", "", policy.ReasonPath},
	} {
		t.Run("PX-10/"+c.method+" "+c.path, func(t *testing.T) {
			req := get("spiffe://td/a")
			req.Method, req.Path = c.method, c.path
			if d := compiled.Decide(req); d.Reason != c.reason || d.Allowed != (c.reason == policy.ReasonAllowed) {
				t.Errorf("got %+v, want %q", d, c.reason)
			}
		})
	}
}

func TestDenyBeatsAllow(t *testing.T) {
	wide, deny := allow("a-wide", "spiffe://td/**"), allow("z-deny", "spiffe://td/bot")
	wide.Models = []string{"*"}
	deny.Effect = policy.Deny
	compiled := compile(t, wide, deny)
	for _, model := range []string{"", "m"} { // naming a model is no way around a deny that names none
		req := get("spiffe://td/bot")
		req.Model = model
		if d := compiled.Decide(req); d.Allowed || d.Policy != "z-deny" || d.Reason != policy.ReasonDenied {
			t.Errorf("model %q: got %+v, want it denied by z-deny", model, d)
		}
	}
	if d := compiled.Decide(get("spiffe://td/other")); !d.Allowed {
		t.Errorf("the deny reaches another subject: %+v", d)
	}
}

func TestLowestRateDecides(t *testing.T) {
	none, slow, fast := allow("a", "spiffe://td/x"), allow("c", "spiffe://td/**"), allow("b", "spiffe://td/x")
	slow.Limits = &policy.Limits{RequestsPerMinute: 60}
	fast.Limits = &policy.Limits{RequestsPerMinute: 600}
	if d := compile(t, none, slow, fast).Decide(get("spiffe://td/x")); d.Policy != "c" || d.RequestsPerMinute != 60 {
		t.Errorf("got %+v, want 60 a minute by c", d)
	}
	if d := compile(t, none, fast).Decide(get("spiffe://td/x")); d.Policy != "b" || d.RequestsPerMinute != 600 {
		t.Errorf("got %+v, want 600 a minute by b", d)
	}
}

func TestCompiledIsIndependentOfItsInput(t *testing.T) {
	policies := []policy.Policy{allow("p", "spiffe://td/x")}
	compiled := compile(t, policies...)
	policies[0].Name, policies[0].Methods[0], policies[0].Paths[0] = "q", "PUT", "/other"
	if d := compiled.Decide(get("spiffe://td/x")); !d.Allowed || d.Policy != "p" {
		t.Errorf("changing the input changed the decision to %+v", d)
	}
}

func TestNilCompiledDenies(t *testing.T) {
	var none *policy.Compiled
	if d := none.Decide(get("spiffe://td/x")); d.Allowed || d.Reason != policy.ReasonDefault {
		t.Errorf("got %+v", d)
	}
}

// TestCompileRefuses changes a good policy in one way each.
func TestCompileRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*policy.Policy)
		want   string
	}{
		{"no name", func(p *policy.Policy) { p.Name = "" }, `policy "": name: is missing`},
		{"name with slash", func(p *policy.Policy) { p.Name = "a/b" }, "name: \"a/b\" has other characters"},
		{"name of dots", func(p *policy.Policy) { p.Name = ".." }, "name: \"..\" has other characters"},
		{"long name", func(p *policy.Policy) { p.Name = strings.Repeat("n", 129) }, "name: is 129 bytes long; the limit is 128"},
		{"effect", func(p *policy.Policy) { p.Effect = "Allow" }, `effect: "Allow" is neither "allow" nor "deny"`},
		{"no service", func(p *policy.Policy) { p.Service = "" }, "service: is missing"},
		{"V-55/no subjects", func(p *policy.Policy) { p.Subjects = nil }, "subjects: is empty, which would match nothing; list at least a SPIFFE ID"},
		{"V-55/no methods", func(p *policy.Policy) { p.Methods = []string{} }, "methods: is empty"},
		{"V-55/no paths", func(p *policy.Policy) { p.Paths = nil }, "paths: is empty"},
		{"subject of trust domain", func(p *policy.Policy) { p.Subjects[0] = "spiffe://td" }, "subjects[0]: \"spiffe://td\" has no path"},
		{"subject upper case", func(p *policy.Policy) { p.Subjects[0] = "spiffe://TD/a" }, "is not a SPIFFE ID"},
		{"subject star", func(p *policy.Policy) { p.Subjects[0] = "*" }, `only a final "/**" stands for more`},
		{"subject any trust domain", func(p *policy.Policy) { p.Subjects[0] = "spiffe://**" }, "is not a SPIFFE ID"},
		{"subject any trust domain, again", func(p *policy.Policy) { p.Subjects[0] = "spiffe:///**" }, "is not a SPIFFE ID"},
		{"subject middle", func(p *policy.Policy) { p.Subjects[0] = "spiffe://td/**/a" }, `only a final "/**" stands for more`},
		{"subject one star", func(p *policy.Policy) { p.Subjects[0] = "spiffe://td/*" }, `only a final "/**" stands for more`},
		{"subject slash", func(p *policy.Policy) { p.Subjects[0] = "spiffe://td/a//**" }, "is not a SPIFFE ID"},
		{"P-45 method", func(p *policy.Policy) { p.Methods[0] = "get" }, "would never match, because methods are case-exact; write GET"},
		{"method space", func(p *policy.Policy) { p.Methods[0] = "GET " }, "is not an HTTP method"},
		{"path relative", func(p *policy.Policy) { p.Paths[0] = "v1" }, "is not a canonical path"},
		{"path empty segment", func(p *policy.Policy) { p.Paths[0] = "/v1//x" }, "is not a canonical path"},
		{"path dots", func(p *policy.Policy) { p.Paths[0] = "/v1/../x" }, "is not a canonical path"},
		{"path dots then any", func(p *policy.Policy) { p.Paths[0] = "/v1/../**" }, "is not a canonical path"},
		{"path slashes then any", func(p *policy.Policy) { p.Paths[0] = "/v1//**" }, "is not a canonical path"},
		{"path percent", func(p *policy.Policy) { p.Paths[0] = "/a%2fb" }, "is not a canonical path"},
		{"path query", func(p *policy.Policy) { p.Paths[0] = "/a?b" }, "is not a canonical path"},
		{"path fragment", func(p *policy.Policy) { p.Paths[0] = "/a#b" }, "is not a canonical path"},
		{"path parameter", func(p *policy.Policy) { p.Paths[0] = "/a;b" }, "is not a canonical path"},
		{"path space", func(p *policy.Policy) { p.Paths[0] = "/a b" }, "is not a canonical path"},
		{"path star", func(p *policy.Policy) { p.Paths[0] = "/a/*/b" }, `only a final "/**" stands for more`},
		{"path glued", func(p *policy.Policy) { p.Paths[0] = "/a**" }, `only a final "/**" stands for more`},
		{"path long", func(p *policy.Policy) { p.Paths[0] = "/" + strings.Repeat("a", 4096) }, "is 4097 bytes long"},
		{"model pattern", func(p *policy.Policy) { p.Models = []string{"gpt-*"} }, "models[0]: \"gpt-*\" has a '*' in it, but names are exact"},
		{"model empty", func(p *policy.Policy) { p.Models = []string{""} }, "models[0]: \"\" is empty or has space around it"},
		{"model control", func(p *policy.Policy) { p.Models = []string{"a\nb"} }, "has a control character"},
		{"tool space", func(p *policy.Policy) { p.Tools = []string{" x"} }, "tools[0]: \" x\" is empty or has space around it"},
		{"when", func(p *policy.Policy) { p.When = "true" }, "when: conditions need a newer engine than version 1"},
		{"rate", func(p *policy.Policy) { p.Limits = &policy.Limits{RequestsPerMinute: -1} }, "limits.requests_per_minute: -1 is negative"},
		{"lifetime", func(p *policy.Policy) { p.Limits = &policy.Limits{MaxSVIDLifetime: -1} }, "limits.max_svid_lifetime: is negative"},
		{"deny with limits", func(p *policy.Policy) { p.Effect, p.Limits = policy.Deny, &policy.Limits{} }, "limits: a deny has no limits"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := allow("p", "spiffe://td/a")
			compile(t, p) // the twin
			c.change(&p)
			wantInvalid(t, c.want, p)
		})
	}
	t.Run("same name twice", func(t *testing.T) {
		wantInvalid(t, `policy "p": name: two policies have it`, allow("p", "spiffe://td/a"), allow("p", "spiffe://td/b"))
	})
	t.Run("all problems at once", func(t *testing.T) {
		bad := allow("p", "spiffe://td")
		bad.Effect, bad.Service = "", ""
		wantInvalid(t, `effect: "" is neither "allow" nor "deny"; policy "p": service: is missing; use letters, digits, '.', '_' and '-'; policy "p": subjects[0]`, bad)
	})
	t.Run("too many pairs", func(t *testing.T) {
		p := allow("p")
		for range 1001 {
			p.Subjects, p.Paths = append(p.Subjects, "spiffe://td/a"), append(p.Paths, "/a")
		}
		wantInvalid(t, "combine 1003002 subjects and paths; the limit is 1000000", p)
	})
}

func wantInvalid(t *testing.T, want string, policies ...policy.Policy) {
	t.Helper()
	_, err := policy.Compile(policies)
	if identity.CodeOf(err) != identity.Invalid || !strings.Contains(identity.MessageOf(err), want) {
		t.Errorf("got %v, want it invalid with %q", err, want)
	}
}

// A final '/' is no way around a deny, and gains nothing from an allow.
func TestDenyCoversFinalSlash(t *testing.T) {
	wide, deny, exact := allow("wide", "spiffe://td/bot"), allow("deny", "spiffe://td/bot"), allow("exact", "spiffe://td/other")
	wide.Paths, wide.Models = []string{"/**"}, nil
	deny.Effect, deny.Paths, deny.Models = policy.Deny, []string{"/admin", "/list/"}, nil
	exact.Paths, exact.Models = []string{"/admin"}, nil
	compiled := compile(t, wide, deny, exact)
	for _, row := range []struct {
		subject, path string
		want          bool
	}{
		{"bot", "/admin", false}, {"bot", "/admin/", false}, {"bot", "/list", false}, {"bot", "/list/", false},
		{"bot", "/admins", true}, {"bot", "/admin/x", true}, {"bot", "/", true},
		{"other", "/admin", true}, {"other", "/admin/", false},
	} {
		req := policy.Request{Subject: spiffeid.RequireFromString("spiffe://td/" + row.subject), Service: wide.Service, Method: wide.Methods[0], Path: row.path}
		if d := compiled.Decide(req); d.Allowed != row.want {
			t.Errorf("%s %s: %+v", row.subject, row.path, d)
		}
	}
}
