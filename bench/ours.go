package main

import (
	"encoding/json"

	"github.com/authsec-ai/icp/bench/internal/target"
	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/policy"
)

const oursName = "agentauth-proxy"

// ours is agentauth-proxy with audit and metrics on.
func ours() gateway {
	return gateway{
		name:     oursName,
		path:     oursPath,
		checks:   "SVID, revocation, and a policy for each request on SPIFFE ID, method, path and model; audit and metrics on",
		checksID: true, readsModel: true,
		start: func(s *site) (*stage.Process, string) {
			metrics, upstream := s.address(), "http://"+s.api()
			return s.program(oursName, map[string]any{
				"listen": s.addr(), "metrics_listen": metrics, "workload_api": s.socket, "spiffe_id": workloadID(oursPath),
				"policies": map[string]string{"file": s.write("policies.json", s.policies())}, "audit_file": s.file("audit.jsonl"),
				"routes": []map[string]any{
					{"service": "llm", "path_prefix": "/v1", "upstream": upstream, "llm": true},
					{"service": "plain", "path_prefix": target.Plain, "upstream": upstream},
					{"service": "sse", "path_prefix": target.SSE, "upstream": upstream},
				},
			}, answers("http://"+metrics+"/readyz")), "of this commit"
		},
	}
}

func (s *site) policies() []byte {
	set := policy.Set{Revision: 1}
	for _, service := range []string{"llm", "plain", "sse"} {
		set.Policies = append(set.Policies, policy.Policy{
			Name: service, Effect: policy.Allow, Subjects: []string{s.CallerID},
			Service: service, Methods: []string{"*"}, Paths: []string{"/**"},
		})
	}
	set.Policies[0].Models = []string{s.Model}
	raw, err := json.Marshal(set)
	if err != nil {
		s.t.Fatalf("write policies: %v", err)
	}
	return raw
}
