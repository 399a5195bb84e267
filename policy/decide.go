package policy

import "strings"

// Reasons of a Decision. A refusal by default gives the nearest miss: what the
// allow policy that came closest did not accept.
const (
	ReasonAllowed  = "allowed by policy"
	ReasonDenied   = "denied by policy"
	ReasonDefault  = "no policy allows it"
	ReasonModel    = "no policy allows this model"
	ReasonTool     = "no policy allows this tool"
	ReasonLifetime = "the SVID was issued for longer than the policy accepts"
	ReasonPath     = "the path is not canonical"
	ReasonNoSet    = "no policies have been loaded"
	ReasonExpired  = "the policies are out of date: the source of policies has been out of reach for too long"
)

// Decide says whether req is allowed. It allocates nothing.
func (c *Compiled) Decide(req Request) Decision {
	if !canonical(req.Path) {
		return Decision{Reason: ReasonPath}
	}
	if c == nil {
		return Decision{Reason: ReasonDefault}
	}
	var v verdict
	for subjects := c.subjects.match(withoutScheme(req.Subject.String())); subjects.next(); {
		rs := (*subjects.value)[req.Service]
		if rs == nil {
			continue
		}
		for paths := rs.paths.match(req.Path); paths.next(); {
			v.consider(*paths.value, &req)
		}
	}
	return v.decision()
}

// MayAllow reports whether Decide could allow req if it named other models and
// tools. A caller that it is false for need not be heard out: Decide denies.
func (c *Compiled) MayAllow(req Request) bool {
	if c == nil || !canonical(req.Path) {
		return false
	}
	may := false
	for subjects := c.subjects.match(withoutScheme(req.Subject.String())); subjects.next(); {
		rs := (*subjects.value)[req.Service]
		if rs == nil {
			continue
		}
		for paths := rs.paths.match(req.Path); paths.next(); {
			for _, r := range *paths.value {
				switch {
				case !r.methods.has(req.Method):
				case r.deny && len(r.models.sorted) == 0 && len(r.tools.sorted) == 0:
					return false
				case !r.deny && r.acceptsLifetime(&req):
					may = true
				}
			}
		}
	}
	return may
}

// AllowsModel reports whether there is a request for req.Model that the subject
// may make of the service: some method and path of an allow policy for which
// Decide allows. Where the policy means any method it tries POST, and of the
// paths below P it tries P/. Method and Path of req are not read. It serves to
// show a caller only the models it can use.
func (c *Compiled) AllowsModel(req Request) bool {
	if c == nil || req.Model == "" {
		return false
	}
	for subjects := c.subjects.match(withoutScheme(req.Subject.String())); subjects.next(); {
		rs := (*subjects.value)[req.Service]
		if rs == nil {
			continue
		}
		for _, r := range rs.all {
			if !r.deny && r.models.has(req.Model) && c.allowsSome(r, req) {
				return true
			}
		}
	}
	return false
}

// allowsSome tries req on each method and path of r.
func (c *Compiled) allowsSome(r *rule, req Request) bool {
	for _, method := range r.policy.Methods {
		if method == "*" {
			method = "POST"
		}
		for _, path := range r.policy.Paths {
			req.Method, req.Path = method, strings.TrimSuffix(path, "**")
			if c.Decide(req).Allowed {
				return true
			}
		}
	}
	return false
}

// verdict gathers what the matching rules say.
type verdict struct {
	deny  *rule
	allow *rule
	miss  miss
}

// miss says how close a rule that did not apply came; a greater one is closer.
type miss uint8

const (
	missAll miss = iota
	missModel
	missTool
	missLifetime
	missNothing
)

func (m miss) reason() string {
	switch m {
	case missModel:
		return ReasonModel
	case missTool:
		return ReasonTool
	case missLifetime:
		return ReasonLifetime
	}
	return ReasonDefault
}

// consider takes into account list, whose subject, service and path match.
func (v *verdict) consider(list []*rule, req *Request) {
	for _, r := range list {
		switch {
		case !r.methods.has(req.Method):
		case r.deny:
			if r.forbids(req) && (v.deny == nil || r.order < v.deny.order) {
				v.deny = r
			}
		default:
			m := r.misses(req)
			if m == missNothing && (v.allow == nil || r.before(v.allow)) {
				v.allow = r
			}
			v.miss = max(v.miss, m)
		}
	}
}

// decision settles it: deny beats allow, and nothing denies.
func (v *verdict) decision() Decision {
	switch {
	case v.deny != nil:
		return Decision{Policy: v.deny.policy.Name, Reason: ReasonDenied}
	case v.allow != nil:
		return Decision{Allowed: true, Policy: v.allow.policy.Name, Reason: ReasonAllowed, RequestsPerMinute: v.allow.perMinute()}
	}
	return Decision{Reason: v.miss.reason()}
}

// forbids reports whether a deny rule covers the model and tool of req. A rule
// that does not speak of them covers all.
func (r *rule) forbids(req *Request) bool {
	return (len(r.models.sorted) == 0 || r.models.has(req.Model)) &&
		(len(r.tools.sorted) == 0 || r.tools.has(req.Tool))
}

// misses says what of req an allow rule does not accept.
func (r *rule) misses(req *Request) miss {
	switch {
	case !r.models.accepts(req.Model):
		return missModel
	case !r.tools.accepts(req.Tool):
		return missTool
	case !r.acceptsLifetime(req):
		return missLifetime
	}
	return missNothing
}

// accepts reports whether an allow rule with these names takes a request that
// names s. Without names it takes only a request that names nothing.
func (n names) accepts(s string) bool {
	if s == "" && len(n.sorted) == 0 {
		return true
	}
	return n.has(s)
}

func (r *rule) acceptsLifetime(req *Request) bool {
	limits := r.policy.Limits
	if limits == nil || limits.MaxSVIDLifetime == 0 {
		return true
	}
	return req.SVIDLifetime > 0 && req.SVIDLifetime <= limits.MaxSVIDLifetime
}

// before reports whether r decides rather than o when both allow.
func (r *rule) before(o *rule) bool {
	a, b := r.perMinute(), o.perMinute()
	if a != b {
		return b == 0 || (a != 0 && a < b)
	}
	return r.order < o.order
}

func (r *rule) perMinute() int {
	if r.policy.Limits == nil {
		return 0
	}
	return r.policy.Limits.RequestsPerMinute
}
