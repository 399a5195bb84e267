// Package policy decides who may do what. It does no I/O.
//
// Default deny: a request is allowed only if some allow policy matches it and
// no deny policy does. An error while evaluating a deny policy denies.
package policy

import (
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/authsec-ai/icp/identity"
)

// EngineVersion is raised when policies gain a meaning that an older engine
// would get wrong. A Set that needs a newer engine is refused whole.
const EngineVersion = 1

// Effects of a Policy.
const (
	Allow = "allow"
	Deny  = "deny"
)

// Policy is one rule set for one service. An empty list matches nothing,
// except in Models and Tools, where empty means the rule does not speak of
// models (tools): it then matches only requests that name none.
type Policy struct {
	Name     string   `json:"name" yaml:"name"`
	Effect   string   `json:"effect" yaml:"effect"`                     // Allow or Deny
	Subjects []string `json:"subjects" yaml:"subjects"`                 // SPIFFE IDs, exact or ending in "/**" (whole segments)
	Service  string   `json:"service" yaml:"service"`                   // the proxy route's service, exact
	Methods  []string `json:"methods" yaml:"methods"`                   // HTTP methods, case-exact; "*" for any
	Paths    []string `json:"paths" yaml:"paths"`                       // exact, or ending in "/**"
	Models   []string `json:"models,omitempty" yaml:"models,omitempty"` // exact; "*" for any
	Tools    []string `json:"tools,omitempty" yaml:"tools,omitempty"`   // MCP tools, exact; "*" for any
	When     string   `json:"when,omitempty" yaml:"when,omitempty"`     // reserved for CEL: must be empty with EngineVersion 1
	Limits   *Limits  `json:"limits,omitempty" yaml:"limits,omitempty"`
}

// Limits bound what an allowed subject may do.
type Limits struct {
	RequestsPerMinute int               `json:"requests_per_minute,omitempty" yaml:"requests_per_minute,omitempty"`
	MaxSVIDLifetime   identity.Duration `json:"max_svid_lifetime,omitempty" yaml:"max_svid_lifetime,omitempty"` // refuse SVIDs issued for longer
}

// Set is a complete, versioned set of policies.
type Set struct {
	Epoch     string   `json:"epoch,omitempty" yaml:"epoch,omitempty"`
	Revision  int64    `json:"revision" yaml:"revision"`
	MinEngine int      `json:"min_engine,omitempty" yaml:"min_engine,omitempty"`
	Policies  []Policy `json:"policies" yaml:"policies"`
}

// Request is what a Decision is made about. Every text is compared exactly;
// the caller has canonicalised Path and refused what can be read two ways.
type Request struct {
	Subject      spiffeid.ID
	Service      string
	Method       string
	Path         string
	Model        string // "" if the request names none
	Tool         string // "" if the request names none
	SVIDLifetime identity.Duration
}

// Decision is the outcome for one Request. The zero Decision denies.
type Decision struct {
	Allowed           bool
	Policy            string // name of the policy that decided, "" for the default
	Reason            string // constant text, safe to show and to count by
	RequestsPerMinute int    // of the deciding policy, 0 for no limit
}
