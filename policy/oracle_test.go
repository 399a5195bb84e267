package policy_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/policy"
)

// TestOracle holds Decide against the reference on random sets and requests,
// made of few words so that they meet often. ICP_ORACLE_ROUNDS sets how many
// decisions, ICP_ORACLE_SEED repeats a run.
func TestOracle(t *testing.T) {
	total := envInt(t, "ICP_ORACLE_ROUNDS", 300_000)
	seed := envInt(t, "ICP_ORACLE_SEED", int(time.Now().UnixNano()))
	t.Logf("ICP_ORACLE_ROUNDS=%d ICP_ORACLE_SEED=%d", total, seed)
	g := generator{rand.New(rand.NewPCG(uint64(seed), 1))}
	allows, denies, hopeless := 0, 0, 0
	for done := 0; done < total; done += 200 {
		policies := g.policies()
		compiled, err := policy.Compile(policies)
		if err != nil {
			t.Fatalf("the generator made a bad set: %v\n%+v", err, policies)
		}
		g.Shuffle(len(policies), func(i, j int) { policies[i], policies[j] = policies[j], policies[i] })
		for range 200 {
			req := g.requestNear(policies[g.IntN(len(policies))])
			got := compiled.Decide(req)
			allowed, by := reference(policies, req)
			if got.Allowed != allowed || got.Policy != by {
				t.Fatalf("Decide gives %+v, the reference allowed=%v by %q\nrequest %+v\npolicies %+v", got, allowed, by, req, policies)
			}
			if compiled.AllowsModel(req) != referenceModel(policies, req) {
				t.Fatalf("AllowsModel gives %v\nrequest %+v\npolicies %+v", compiled.AllowsModel(req), req, policies)
			}
			if !compiled.MayAllow(req) {
				hopeless++
				if someModel(policies, req) {
					t.Fatalf("MayAllow gives false\nrequest %+v\npolicies %+v", req, policies)
				}
			}
			switch {
			case allowed:
				allows++
			case by != "":
				denies++
			}
		}
	}
	t.Logf("%d allowed, %d denied by a policy", allows, denies)
	if allows < total/10 || denies < total/10 || hopeless < total/10 {
		t.Errorf("of %d decisions only %d allow, %d deny by policy and %d could not allow: the generator does not test enough", total, allows, denies, hopeless)
	}
}

func envInt(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// generator makes valid policies and requests.
type generator struct{ *rand.Rand }

func (g generator) pick(list ...string) string { return list[g.IntN(len(list))] }

func (g generator) path() string {
	path := ""
	for range 1 + g.IntN(3) {
		path += "/" + g.pick("a", "b", "ab", "A", "a.b")
	}
	return path
}

func (g generator) subject() string { return "spiffe://" + g.pick("td", "td.x", "td") + g.path() }

// prefixed makes every second pattern one that stands for what is below it.
func (g generator) prefixed(s string) string {
	if g.IntN(2) == 0 {
		return s + "/**"
	}
	return s
}

func (g generator) subjectPattern() string {
	if g.IntN(8) == 0 {
		return "spiffe://td/**"
	}
	return g.prefixed(g.subject())
}

func (g generator) pathPattern() string {
	if g.IntN(8) == 0 {
		return "/**"
	}
	return g.prefixed(g.path())
}

func (g generator) list(least, most int, one func() string) []string {
	list := []string{}
	for range least + g.IntN(most-least+1) {
		list = append(list, one())
	}
	return list
}

func (g generator) policies() []policy.Policy {
	policies := make([]policy.Policy, 1+g.IntN(12))
	for i := range policies {
		policies[i] = policy.Policy{
			Name:     fmt.Sprintf("p%02d", i),
			Effect:   g.pick(policy.Allow, policy.Allow, policy.Deny),
			Subjects: g.list(1, 3, g.subjectPattern),
			Service:  g.pick("llm", "echo"),
			Methods:  g.list(1, 2, func() string { return g.pick("GET", "POST", "*") }),
			Paths:    g.list(1, 3, g.pathPattern),
			Models:   g.list(0, 2, func() string { return g.pick("m", "n", "M", "*") }),
			Tools:    g.list(0, 1, func() string { return g.pick("x", "*") }),
		}
		if policies[i].Effect == policy.Allow && g.IntN(2) == 0 {
			policies[i].Limits = &policy.Limits{
				RequestsPerMinute: g.IntN(3) * 10,
				MaxSVIDLifetime:   identity.Duration(g.IntN(3)) * 600e9,
			}
		}
	}
	return policies
}

// requestNear makes a request that p matches, and then changes some of it.
func (g generator) requestNear(p policy.Policy) policy.Request {
	far := g.request()
	req := policy.Request{
		Subject: spiffeid.RequireFromString(g.inside(g.pick(p.Subjects...))),
		Service: p.Service,
		Method:  g.pick(p.Methods...),
		Path:    g.inside(g.pick(p.Paths...)),
	}
	if len(p.Models) > 0 {
		req.Model = g.pick(p.Models...)
	}
	if len(p.Tools) > 0 {
		req.Tool = g.pick(p.Tools...)
	}
	if p.Limits != nil {
		req.SVIDLifetime = p.Limits.MaxSVIDLifetime
	}
	for _, change := range []func(){
		func() { req.Subject = far.Subject }, func() { req.Service = far.Service },
		func() { req.Method = far.Method }, func() { req.Path = far.Path },
		func() { req.Model = far.Model }, func() { req.Tool = far.Tool },
		func() { req.SVIDLifetime = far.SVIDLifetime },
	} {
		if g.IntN(8) == 0 {
			change()
		}
	}
	return req
}

// inside gives something that pattern matches.
func (g generator) inside(pattern string) string {
	if base, isPrefix := strings.CutSuffix(pattern, "/**"); isPrefix {
		return base + g.path()
	}
	return pattern
}

func (g generator) request() policy.Request {
	return policy.Request{
		Subject:      spiffeid.RequireFromString(g.subject()),
		Service:      g.pick("llm", "llm", "echo", ""),
		Method:       g.pick("GET", "POST", "POST", "get"),
		Path:         g.path() + g.pick("", "", "", "/"),
		Model:        g.pick("", "m", "n", "M"),
		Tool:         g.pick("", "", "x", "y"),
		SVIDLifetime: identity.Duration(g.IntN(4)) * 500e9,
	}
}
