package policy

import (
	"slices"
	"strings"

	"github.com/authsec-ai/icp/identity"
)

// maxPairs bounds the index: the sum over all policies of subjects × paths.
const maxPairs = 1_000_000

// Compiled is a checked set of policies, indexed by subject, service and path.
// It does not change and may be used by many at once. A nil *Compiled denies
// everything.
type Compiled struct {
	subjects index[services] // by SPIFFE ID without its scheme
}

// services maps a service's name to its rules.
type services map[string]*rules

// rules are those of one subject pattern for one service.
type rules struct {
	paths index[[]*rule]
	all   []*rule // the same, each once
}

// rule is a Policy as decisions need it.
type rule struct {
	policy  Policy
	order   int // place by name: makes decisions independent of the set's order
	deny    bool
	methods names
	models  names
	tools   names
}

// names is a list to look up in.
type names struct {
	any    bool
	sorted []string
}

func newNames(list []string) names {
	sorted := slices.Clone(list)
	slices.Sort(sorted)
	return names{any: slices.Contains(list, "*"), sorted: sorted}
}

func (n names) has(s string) bool {
	if n.any {
		return true
	}
	if len(n.sorted) == 1 {
		return n.sorted[0] == s
	}
	_, found := slices.BinarySearch(n.sorted, s)
	return found
}

// Compile checks policies strictly and makes them ready for decisions. The
// error is an *identity.Error (Invalid) that names each problem by policy and
// field and says what to write instead. It keeps no reference to policies.
func Compile(policies []Policy) (*Compiled, error) {
	var found problems
	seen := make(map[string]bool, len(policies))
	for i := range policies {
		p := &policies[i]
		found.check(p)
		if seen[p.Name] {
			found.add("name", "two policies have it; names must differ")
		}
		seen[p.Name] = true
	}
	if err := found.err(); err != nil {
		return nil, err
	}
	if err := CheckSize(policies); err != nil {
		return nil, err
	}
	return build(policies), nil
}

// CheckSize is the one check of Compile that looks at all policies together: it
// refuses (Invalid) a set whose index would be too large.
func CheckSize(policies []Policy) error {
	pairs := 0
	for _, p := range policies {
		pairs += len(p.Subjects) * len(p.Paths)
	}
	if pairs > maxPairs {
		return identity.Errorf(identity.Invalid, "the policies combine %d subjects and paths; the limit is %d: use \"/**\" for groups", pairs, maxPairs)
	}
	return nil
}

func build(policies []Policy) *Compiled {
	sorted := slices.Clone(policies)
	slices.SortFunc(sorted, func(a, b Policy) int { return strings.Compare(a.Name, b.Name) })
	c := &Compiled{}
	for i, p := range sorted {
		r := &rule{
			policy:  p.clone(),
			order:   i,
			deny:    p.Effect == Deny,
			methods: newNames(p.Methods),
			models:  newNames(p.Models),
			tools:   newNames(p.Tools),
		}
		for _, subject := range p.Subjects {
			c.add(subject, r)
		}
	}
	return c
}

func (c *Compiled) add(subject string, r *rule) {
	byService := c.subjects.slot(withoutScheme(subject))
	if *byService == nil {
		*byService = services{}
	}
	rs := (*byService)[r.policy.Service]
	if rs == nil {
		rs = &rules{}
		(*byService)[r.policy.Service] = rs
	}
	rs.all = append(rs.all, r)
	for _, path := range r.policy.Paths {
		list := rs.paths.slot(path)
		*list = append(*list, r)
		if other := twin(path); r.deny && other != "" {
			list := rs.paths.slot(other)
			*list = append(*list, r)
		}
	}
}

// twin gives an exact path with its final '/' taken away or added, "" for one
// that has no such twin.
func twin(path string) string {
	switch base, slash := strings.CutSuffix(path, "/"); {
	case path == "/" || strings.HasSuffix(path, "/**"):
		return ""
	case slash:
		return base
	}
	return path + "/"
}

// withoutScheme saves two segments on every look-up.
func withoutScheme(subject string) string { return strings.TrimPrefix(subject, "spiffe://") }

// clone copies everything that the caller could change later.
func (p Policy) clone() Policy {
	p.Subjects, p.Methods, p.Paths = slices.Clone(p.Subjects), slices.Clone(p.Methods), slices.Clone(p.Paths)
	p.Models, p.Tools = slices.Clone(p.Models), slices.Clone(p.Tools)
	if p.Limits != nil {
		limits := *p.Limits
		p.Limits = &limits
	}
	return p
}
