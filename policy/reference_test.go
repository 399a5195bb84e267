package policy_test

import (
	"strings"

	"github.com/authsec-ai/icp/policy"
)

// reference decides as the doc comment of policy.Policy says, policy by
// policy, with no index: slow, and meant to be seen to be right.
func reference(policies []policy.Policy, req policy.Request) (allowed bool, by string) {
	var denied, allowedBy *policy.Policy
	for i := range policies {
		p := &policies[i]
		if !covers(p, req) {
			continue
		}
		if p.Effect == policy.Deny {
			if denied == nil || p.Name < denied.Name {
				denied = p
			}
			continue
		}
		if allowedBy == nil || stricter(p, allowedBy) {
			allowedBy = p
		}
	}
	switch {
	case denied != nil:
		return false, denied.Name
	case allowedBy != nil:
		return true, allowedBy.Name
	}
	return false, ""
}

func covers(p *policy.Policy, req policy.Request) bool {
	return anyOf(p.Subjects, func(s string) bool { return below(s, req.Subject.String()) }) &&
		p.Service == req.Service &&
		anyOf(p.Methods, func(m string) bool { return m == "*" || m == req.Method }) &&
		anyOf(p.Paths, func(s string) bool {
			return below(s, req.Path) || p.Effect == policy.Deny && strings.TrimSuffix(s, "/") == strings.TrimSuffix(req.Path, "/")
		}) &&
		speaksOf(p, p.Models, req.Model) &&
		speaksOf(p, p.Tools, req.Tool) &&
		shortLived(p, req)
}

func anyOf(list []string, matches func(string) bool) bool {
	for _, s := range list {
		if matches(s) {
			return true
		}
	}
	return false
}

func below(pattern, s string) bool {
	if strings.HasSuffix(pattern, "/**") {
		return strings.HasPrefix(s, strings.TrimSuffix(pattern, "**"))
	}
	return pattern == s
}

func speaksOf(p *policy.Policy, list []string, named string) bool {
	if len(list) == 0 {
		return p.Effect == policy.Deny || named == ""
	}
	return anyOf(list, func(s string) bool { return s == "*" || s == named })
}

func shortLived(p *policy.Policy, req policy.Request) bool {
	if p.Limits == nil || p.Limits.MaxSVIDLifetime == 0 {
		return true
	}
	return req.SVIDLifetime > 0 && req.SVIDLifetime <= p.Limits.MaxSVIDLifetime
}

func stricter(a, b *policy.Policy) bool {
	const noLimit = 1 << 60
	rate := func(p *policy.Policy) int {
		if p.Limits == nil || p.Limits.RequestsPerMinute == 0 {
			return noLimit
		}
		return p.Limits.RequestsPerMinute
	}
	if rate(a) != rate(b) {
		return rate(a) < rate(b)
	}
	return a.Name < b.Name
}

// referenceModel tries every method and path that an allow policy for the
// subject, service and model writes.
func referenceModel(policies []policy.Policy, req policy.Request) bool {
	if req.Model == "" {
		return false
	}
	for _, p := range policies {
		forSubject := anyOf(p.Subjects, func(s string) bool { return below(s, req.Subject.String()) })
		if p.Effect != policy.Allow || !forSubject || p.Service != req.Service || len(p.Models) == 0 || !speaksOf(&p, p.Models, req.Model) {
			continue
		}
		for _, method := range p.Methods {
			for _, path := range p.Paths {
				req.Method = strings.Replace(method, "*", "POST", 1)
				req.Path = strings.TrimSuffix(path, "**")
				if allowed, _ := reference(policies, req); allowed {
					return true
				}
			}
		}
	}
	return false
}

// someModel tries every model and tool that the generator knows, and none.
func someModel(policies []policy.Policy, req policy.Request) bool {
	for _, model := range []string{"", "m", "n", "M", "other"} {
		for _, tool := range []string{"", "x", "other"} {
			req.Model, req.Tool = model, tool
			if allowed, _ := reference(policies, req); allowed {
				return true
			}
		}
	}
	return false
}
