package cli

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/authsec-ai/icp/cmd/icp/internal/client"
	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/document"
	"github.com/authsec-ai/icp/policy"
)

func policyCommand(a *app) *cobra.Command {
	return group("policy", "Policies: who may do what at the gateways",
		policyApply(a), policyList(a), policyShow(a),
		a.deleteByName("delete NAME...", "Remove policies", "policy", (*client.Client).DeletePolicy), policyTest(a))
}

func policyApply(a *app) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "apply -f FILE", Short: "Create or replace the policies in a file", Args: takes(0, 0),
		Long:    "Create or replace the policies in a file: one policy, or a set as agentauth-proxy reads it.\nPolicies that the file does not name stay; 'icp apply --prune' removes them.",
		Example: "  icp policy apply -f sales-bot.yaml",
		RunE: a.run(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			policies, err := a.readPolicies(cmd, file)
			if err != nil {
				return err
			}
			_, err = a.apply(cmd, c, manifest{Policies: policies}, applyOptions{})
			return err
		}),
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "YAML or JSON; - for standard input")
	return cmd
}

// readPolicies reads one policy or a set, and checks what can be checked here.
func (a *app) readPolicies(cmd *cobra.Command, file string) ([]policy.Policy, error) {
	raw, err := readFile(cmd, file)
	if err != nil {
		return nil, err
	}
	policies, err := parsePolicies(raw)
	if err == nil {
		_, err = policy.Compile(policies)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return policies, nil
}

func parsePolicies(raw []byte) ([]policy.Policy, error) {
	plain, err := document.ToJSON(raw)
	if err != nil {
		return nil, err
	}
	var kind struct {
		Name     *string          `json:"name"`
		Policies *json.RawMessage `json:"policies"`
	}
	if json.Unmarshal(plain, &kind) == nil && kind.Name != nil && kind.Policies == nil {
		one := make([]policy.Policy, 1)
		return one, document.Decode(plain, &one[0])
	}
	set, err := policy.ParseSet(raw)
	if err == nil && set.Policies == nil {
		err = identity.Errorf(identity.Invalid, "it holds neither a policy nor the key policies")
	}
	return set.Policies, err
}

func policyList(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List policies by name", Args: takes(0, 0), Example: "  icp policy list",
		RunE: a.run(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			policies, err := c.Policies(cmd.Context())
			if err != nil {
				return err
			}
			t := table{header: []string{"NAME", "EFFECT", "SUBJECTS", "SERVICE", "METHODS", "PATHS", "MODELS"}}
			for _, p := range policies {
				t.add(p.Name, p.Effect, joined(p.Subjects), p.Service, joined(p.Methods), joined(p.Paths), joined(p.Models))
			}
			return a.list(cmd, policies, "policies: everything is denied", t)
		}),
	}
}

func policyShow(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "show NAME", Short: "Show one policy, in a form that 'icp policy apply' takes", Args: takes(1, 1),
		Example: "  icp policy show sales-bot-llm > sales-bot.yaml",
		RunE: a.run(func(cmd *cobra.Command, c *client.Client, args []string) error {
			p, err := c.Policy(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.write(cmd, p)
		}),
	}
}

func policyTest(a *app) *cobra.Command {
	var q client.Question
	var lifetime time.Duration
	var file string
	cmd := &cobra.Command{
		Use: "test", Short: "Ask what the policies decide about a request", Args: takes(0, 0),
		Long: "Ask what the policies of the server, or of a file, decide about a request. Exit code 0 if it is allowed, 4 if it is denied.",
		Example: `  icp policy test --subject spiffe://example.org/ai-agents/sales-bot --service llm \
      --method POST --path /v1/chat/completions --model customer-service-llm`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if q.Subject == "" || q.Service == "" || q.Path == "" {
				return usage(cmd, "--subject, --service and --path are needed")
			}
			q.SVIDLifetime = identity.Duration(lifetime)
			v, err := a.evaluate(cmd, q, file)
			if err != nil {
				return err
			}
			return a.showVerdict(cmd, v)
		},
	}
	cmd.Flags().StringVar(&q.Subject, "subject", "", "SPIFFE ID of the caller")
	cmd.Flags().StringVar(&q.Service, "service", "", "service of the gateway's route")
	cmd.Flags().StringVar(&q.Method, "method", "GET", "HTTP method")
	cmd.Flags().StringVar(&q.Path, "path", "", "path of the request")
	cmd.Flags().StringVar(&q.Model, "model", "", "model that the request names")
	cmd.Flags().StringVar(&q.Tool, "tool", "", "tool that the request names")
	cmd.Flags().DurationVar(&lifetime, "svid-lifetime", time.Hour, "how long the caller's SVID was issued for")
	cmd.Flags().StringVarP(&file, "file", "f", "", "ask the policies in this file instead of the server's")
	return cmd
}

func (a *app) evaluate(cmd *cobra.Command, q client.Question, file string) (client.Verdict, error) {
	if file != "" {
		return a.evaluateFile(cmd, q, file)
	}
	c, err := a.connect(cmd, true)
	if err != nil {
		return client.Verdict{}, err
	}
	defer c.Close()
	return c.Evaluate(cmd.Context(), q)
}

func (a *app) evaluateFile(cmd *cobra.Command, q client.Question, file string) (client.Verdict, error) {
	policies, err := a.readPolicies(cmd, file)
	if err != nil {
		return client.Verdict{}, err
	}
	compiled, err := policy.Compile(policies)
	if err != nil {
		return client.Verdict{}, err
	}
	subject, err := identity.ParseWorkloadID(q.Subject)
	if err != nil {
		return client.Verdict{}, err
	}
	d := compiled.Decide(policy.Request{
		Subject: subject, Service: q.Service, Method: q.Method, Path: q.Path,
		Model: q.Model, Tool: q.Tool, SVIDLifetime: q.SVIDLifetime,
	})
	return client.Verdict{Allowed: d.Allowed, Policy: d.Policy, Reason: d.Reason, RequestsPerMinute: d.RequestsPerMinute}, nil
}

func (a *app) showVerdict(cmd *cobra.Command, v client.Verdict) error {
	rate, outcome := "", "denied"
	if v.RequestsPerMinute > 0 {
		rate = fmt.Sprint(v.RequestsPerMinute)
	}
	if v.Allowed {
		outcome = "allowed"
	}
	err := a.show(cmd, v, [2]string{"decision", outcome}, [2]string{"policy", v.Policy},
		[2]string{"reason", v.Reason}, [2]string{"requests_per_minute", rate})
	if err == nil && !v.Allowed {
		return exitWith(exitDenied)
	}
	return err
}
