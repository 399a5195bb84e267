package policy

import (
	"fmt"
	"strings"

	"github.com/authsec-ai/icp/identity"
)

const (
	maxNameBytes = 128
	maxPathBytes = 4096
	maxNamed     = 256 // bytes of a model or tool
)

// problems collects what is wrong with a set, so that its author can mend all
// of it at once.
type problems struct {
	policy string // name of the one being checked
	list   []string
}

func (p *problems) add(field, format string, args ...any) {
	p.list = append(p.list, fmt.Sprintf("policy %q: %s: %s", identity.Clip(p.policy), field, fmt.Sprintf(format, args...)))
}

// err gives everything found as one error, nil if nothing was.
func (p *problems) err() error {
	const shown = 10
	if len(p.list) == 0 {
		return nil
	}
	list, more := p.list, ""
	if len(list) > shown {
		list, more = list[:shown], fmt.Sprintf("; and %d more", len(list)-shown)
	}
	return identity.Errorf(identity.Invalid, "%s%s", strings.Join(list, "; "), more)
}

func (p *problems) check(pol *Policy) {
	p.policy = pol.Name
	p.name("name", pol.Name)
	if pol.Effect != Allow && pol.Effect != Deny {
		p.add("effect", "%q is neither %q nor %q", identity.Clip(pol.Effect), Allow, Deny)
	}
	p.name("service", pol.Service)
	p.each("subjects", pol.Subjects, "a SPIFFE ID such as spiffe://example.org/billing/api", checkSubject)
	p.each("methods", pol.Methods, `an HTTP method such as GET, or "*" for any`, checkMethod)
	p.each("paths", pol.Paths, "a path such as /v1/chat/completions or /v1/**", checkPath)
	p.all("models", pol.Models, checkNamed)
	p.all("tools", pol.Tools, checkNamed)
	if pol.When != "" {
		p.add("when", "conditions need a newer engine than version %d; remove the field", EngineVersion)
	}
	p.limits(pol)
}

// name checks a policy's or a service's name. Both stand in URLs and logs.
func (p *problems) name(field, s string) {
	switch {
	case s == "":
		p.add(field, "is missing; use letters, digits, '.', '_' and '-'")
	case len(s) > maxNameBytes:
		p.add(field, "is %d bytes long; the limit is %d", len(s), maxNameBytes)
	case strings.Trim(s, nameBytes) != "" || strings.Trim(s, ".") == "":
		p.add(field, "%q has other characters than letters, digits, '.', '_' and '-'", identity.Clip(s))
	}
}

const nameBytes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"

// each is all for a list that must not be empty.
func (p *problems) each(field string, list []string, example string, check func(string) error) {
	if len(list) == 0 {
		p.add(field, "is empty, which would match nothing; list at least %s", example)
	}
	p.all(field, list, check)
}

func (p *problems) all(field string, list []string, check func(string) error) {
	for i, s := range list {
		if err := check(s); err != nil {
			p.add(fmt.Sprintf("%s[%d]", field, i), "%s", err)
		}
	}
}

func (p *problems) limits(pol *Policy) {
	if pol.Limits == nil {
		return
	}
	if pol.Effect == Deny {
		p.add("limits", "a deny has no limits; remove them")
	}
	if pol.Limits.RequestsPerMinute < 0 {
		p.add("limits.requests_per_minute", "%d is negative; leave it out for no limit", pol.Limits.RequestsPerMinute)
	}
	if pol.Limits.MaxSVIDLifetime < 0 {
		p.add("limits.max_svid_lifetime", "is negative; leave it out for no limit")
	}
}

func checkSubject(s string) error {
	base, isPrefix := strings.CutSuffix(s, "/**")
	if strings.Contains(base, "*") {
		return identity.Errorf(identity.Invalid, `%q has a '*' in the middle; only a final "/**" stands for more than itself`, identity.Clip(s))
	}
	parse := identity.ParseWorkloadID
	if isPrefix {
		parse = identity.ParseID
	}
	_, err := parse(base)
	return err
}

func checkMethod(s string) error {
	switch {
	case s == "*":
		return nil
	case s == "" || len(s) > maxNameBytes:
		return identity.Errorf(identity.Invalid, `%q is not an HTTP method; write for example GET, or "*" for any`, identity.Clip(s))
	case s != strings.ToUpper(s):
		return identity.Errorf(identity.Invalid, "%q would never match, because methods are case-exact; write %s", identity.Clip(s), identity.Clip(strings.ToUpper(s)))
	case strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "":
		return identity.Errorf(identity.Invalid, `%q is not an HTTP method; write for example GET, or "*" for any`, identity.Clip(s))
	}
	return nil
}

func checkPath(s string) error {
	base, isPrefix := strings.CutSuffix(s, "/**")
	switch {
	case len(s) > maxPathBytes:
		return identity.Errorf(identity.Invalid, "is %d bytes long; the limit is %d", len(s), maxPathBytes)
	case isPrefix && base == "":
		return nil
	case strings.Contains(base, "*"):
		return identity.Errorf(identity.Invalid, `%q has a '*' in the middle; only a final "/**" stands for more than itself`, identity.Clip(s))
	case isPrefix && strings.HasSuffix(base, "/"), !canonical(base), strings.Contains(base, "%"), !printable(base):
		return identity.Errorf(identity.Invalid, "%q is not a canonical path; start with '/' and leave out empty, '.' and '..' segments, "+
			"spaces and any of \\ %% ? # ;", identity.Clip(s))
	}
	return nil
}

func checkNamed(s string) error {
	switch {
	case s == "*":
		return nil
	case s == "" || s != strings.TrimSpace(s):
		return identity.Errorf(identity.Invalid, `%q is empty or has space around it; write the exact name, or "*" for any`, identity.Clip(s))
	case len(s) > maxNamed:
		return identity.Errorf(identity.Invalid, "is %d bytes long; the limit is %d", len(s), maxNamed)
	case strings.Contains(s, "*"):
		return identity.Errorf(identity.Invalid, `%q has a '*' in it, but names are exact; list each, or write "*" for any`, identity.Clip(s))
	case strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f || r == '\uFFFD' }):
		return identity.Errorf(identity.Invalid, "%q has a control character or is not UTF-8", identity.Clip(s))
	}
	return nil
}

// printable reports whether s is of visible ASCII characters alone, as a path
// on the wire is.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// canonical reports whether path is absolute, without empty (but for the last),
// "." or ".." segments, and without the characters that servers read in
// different ways. Percent-encoding is left to who made the request.
func canonical(path string) bool {
	if path == "" || path[0] != '/' {
		return false
	}
	segment := 1 // where it starts
	for i := 1; i < len(path); i++ {
		switch path[i] {
		case '/':
			if i == segment || dots(path[segment:i]) {
				return false
			}
			segment = i + 1
		case '\\', '?', '#', ';', 0:
			return false
		}
	}
	return !dots(path[segment:])
}

func dots(segment string) bool { return segment == "." || segment == ".." }
