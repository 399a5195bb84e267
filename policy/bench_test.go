package policy_test

import (
	"fmt"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/authsec-ai/icp/policy"
)

var (
	bot     = spiffeid.RequireFromString("spiffe://dev.icp.internal/ai-agents/bot-00007")
	request = policy.Request{Subject: bot, Service: "llm", Method: "POST", Path: "/v1/chat/completions", Model: "model-7"}
)

// fleet gives n policies: each bot may use its own model, every tenth policy
// is a "/**" one, and one denies.
func fleet(n int) []policy.Policy {
	policies := make([]policy.Policy, n)
	for i := range policies {
		policies[i] = policy.Policy{
			Name: fmt.Sprintf("bot-%05d", i), Effect: policy.Allow,
			Subjects: []string{fmt.Sprintf("spiffe://dev.icp.internal/ai-agents/bot-%05d", i)},
			Service:  "llm", Methods: []string{"POST"}, Paths: []string{"/v1/chat/completions", "/v1/embeddings"},
			Models: []string{fmt.Sprintf("model-%d", i)},
		}
		switch {
		case i%10 == 9:
			policies[i].Subjects = []string{fmt.Sprintf("spiffe://dev.icp.internal/team-%d/**", i)}
			policies[i].Paths = []string{"/v1/**"}
		case i == 0:
			policies[i].Effect = policy.Deny
			policies[i].Subjects = []string{"spiffe://dev.icp.internal/**"}
			policies[i].Paths = []string{"/admin/**"}
			policies[i].Models = nil
		}
	}
	return policies
}

// crowd gives n policies of one subject, service and path, each for another
// model: the case in which the index helps least.
func crowd(n int) []policy.Policy {
	policies := fleet(n)
	for i := range policies {
		policies[i].Effect, policies[i].Models = policy.Allow, []string{fmt.Sprintf("model-%d", i)}
		policies[i].Subjects, policies[i].Paths = []string{bot.String()}, []string{request.Path}
	}
	return policies
}

func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{10, 1_000, 10_000} {
		b.Run(fmt.Sprintf("allow/%d", n), func(b *testing.B) { benchmark(b, fleet(n), request, true) })
		other := request
		other.Model = "model-8"
		b.Run(fmt.Sprintf("default/%d", n), func(b *testing.B) { benchmark(b, fleet(n), other, false) })
		admin := request
		admin.Path = "/admin/keys"
		b.Run(fmt.Sprintf("deny/%d", n), func(b *testing.B) { benchmark(b, fleet(n), admin, false) })
		b.Run(fmt.Sprintf("crowd/%d", n), func(b *testing.B) { benchmark(b, crowd(n), request, true) })
	}
}

func benchmark(b *testing.B, policies []policy.Policy, req policy.Request, allowed bool) {
	engine := policy.NewEngine()
	if err := engine.Load(policy.Set{Revision: 1, Policies: policies}); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if engine.Decide(req).Allowed != allowed {
			b.Fatalf("Decide gives %+v", engine.Decide(req))
		}
	}
}

func BenchmarkCompile(b *testing.B) {
	for _, n := range []int{10, 1_000, 10_000} {
		policies := fleet(n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := policy.Compile(policies); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestDecideAllocatesNothing(t *testing.T) {
	engine := policy.NewEngine()
	if err := engine.Load(policy.Set{Revision: 1, Policies: fleet(10_000)}); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*policy.Request){
		"allow":          func(*policy.Request) {},
		"model":          func(r *policy.Request) { r.Model = "model-8" },
		"deny":           func(r *policy.Request) { r.Path = "/admin/keys" },
		"bad path":       func(r *policy.Request) { r.Path = "//admin" },
		"nobody":         func(r *policy.Request) { r.Subject = spiffeid.ID{} },
		"/** of subject": func(r *policy.Request) { r.Subject = spiffeid.RequireFromString("spiffe://dev.icp.internal/team-19/x") },
	} {
		t.Run(name, func(t *testing.T) {
			req := request
			change(&req)
			if n := testing.AllocsPerRun(1000, func() { engine.Decide(req) }); n != 0 {
				t.Errorf("a decision allocates %v times", n)
			}
		})
	}
}
