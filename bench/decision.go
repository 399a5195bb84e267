package main

import (
	"fmt"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/authsec-ai/icp/bench/internal/report"
	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/policy"
)

// decision measures the policy engine with 10,000 policies, in this process.
func decision(t stage.T, o options, r *report.Report) error {
	const policies = 10_000
	engine := policy.NewEngine()
	if err := engine.Load(policy.Set{Revision: 1, Policies: fleet(policies)}); err != nil {
		return err
	}
	subject, err := spiffeid.FromString(bot(7))
	if err != nil {
		return err
	}
	req := policy.Request{Subject: subject, Service: "llm", Method: "POST", Path: "/v1/chat/completions", Model: "model-7"}
	for range o.rounds {
		if err := t.Context().Err(); err != nil {
			return err
		}
		if err := decide(engine, req, time.Duration(o.pick(500, 20))*time.Millisecond, r); err != nil {
			return err
		}
	}
	return nil
}

func decide(engine *policy.Engine, req policy.Request, span time.Duration, r *report.Report) error {
	check := func() error {
		if d := engine.Decide(req); !d.Allowed {
			return fmt.Errorf("denied: %s", d.Reason)
		}
		return nil
	}
	cost, err := perCall(span, check)
	if err != nil {
		return err
	}
	allocations := testing.AllocsPerRun(1000, func() { engine.Decide(req) })
	const section = "Policy decision, 10,000 policies, one of them allows"
	if err := r.Add(report.Figure{Section: section, What: "one decision", Unit: "ns", Aim: "230 is a compiled prototype's, 1,300 CEL's"}, cost*1e9); err != nil {
		return err
	}
	return r.Add(report.Figure{Section: section, What: "memory allocations of one decision", Unit: "", Aim: "0"}, allocations)
}

// fleet gives n policies: each bot may use a model of its own, and every tenth
// policy is one for a whole team.
func fleet(n int) []policy.Policy {
	policies := make([]policy.Policy, n)
	for i := range policies {
		policies[i] = policy.Policy{
			Name: fmt.Sprintf("bot-%05d", i), Effect: policy.Allow, Subjects: []string{bot(i)},
			Service: "llm", Methods: []string{"POST"}, Paths: []string{"/v1/chat/completions", "/v1/embeddings"},
			Models: []string{fmt.Sprintf("model-%d", i)},
		}
		if i%10 == 9 {
			policies[i].Subjects = []string{fmt.Sprintf("spiffe://bench.example/team-%d/**", i)}
			policies[i].Paths = []string{"/v1/**"}
		}
	}
	return policies
}

func bot(i int) string { return fmt.Sprintf("spiffe://bench.example/ai-agents/bot-%05d", i) }
