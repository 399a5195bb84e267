// Package policy decides who may do what. It does no I/O.
//
// Default deny: a request is allowed only if some allow policy matches it and
// no deny policy does. An error while evaluating a deny policy denies. The
// order of policies never matters: where several allow, the one with the lowest
// rate limit decides, then the first by name.
//
// ParseSet reads policies that people wrote, Compile checks them and builds an
// index, and Engine holds the Compiled set that is in force.
package policy

import (
	"bytes"
	"encoding/json"
	"errors"

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

// Policy is one rule set for one service. It matches a request if every field
// does. All text is compared byte for byte, upper and lower case apart; nothing
// is a regular expression.
//
// A subject or path that ends in "/**" stands for everything below it, by whole
// segments: "spiffe://td/a/**" matches spiffe://td/a/b and spiffe://td/a/b/c,
// but neither spiffe://td/a itself nor spiffe://td/ab. "/**" matches every path.
// Many servers take /a and /a/ for the same, so a deny for either covers both.
//
// An empty Subjects, Methods or Paths is refused. With an empty Models (Tools)
// the policy does not speak of models (tools): an allow then matches only
// requests that name none, a deny matches whether or not one is named, so that
// naming a model is no way around it.
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

// Limits bound what an allowed subject may do; a deny has none. An allow with
// MaxSVIDLifetime does not apply to a caller whose SVID was issued for longer,
// or for an unknown time.
type Limits struct {
	RequestsPerMinute int               `json:"requests_per_minute,omitempty" yaml:"requests_per_minute,omitempty"`
	MaxSVIDLifetime   identity.Duration `json:"max_svid_lifetime,omitempty" yaml:"max_svid_lifetime,omitempty"` // refuse SVIDs issued for longer
}

// UnmarshalJSON refuses a limit of zero: it would be read as no limit, and was
// hardly meant so.
func (l *Limits) UnmarshalJSON(raw []byte) error {
	var written struct {
		RequestsPerMinute *int               `json:"requests_per_minute"`
		MaxSVIDLifetime   *identity.Duration `json:"max_svid_lifetime"`
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&written); err != nil {
		return err
	}
	const remedy = "leave it out for no limit, or refuse with a deny"
	if n := written.RequestsPerMinute; n != nil {
		if *n == 0 {
			return errors.New("limits.requests_per_minute: 0 is no limit: " + remedy)
		}
		l.RequestsPerMinute = *n
	}
	if d := written.MaxSVIDLifetime; d != nil {
		if *d == 0 {
			return errors.New("limits.max_svid_lifetime: 0 is no limit: " + remedy)
		}
		l.MaxSVIDLifetime = *d
	}
	return nil
}

// Set is a complete, versioned set of policies. Nil Policies are no set at all;
// empty ones are a set that denies everything.
type Set struct {
	Epoch     string   `json:"epoch,omitempty" yaml:"epoch,omitempty"`
	Revision  int64    `json:"revision" yaml:"revision"`
	MinEngine int      `json:"min_engine,omitempty" yaml:"min_engine,omitempty"`
	Policies  []Policy `json:"policies" yaml:"policies"`
}

// Request is what a Decision is made about. Every text is compared exactly;
// the caller has canonicalised Path and refused what can be read two ways. What
// is still not canonical here is denied.
type Request struct {
	Subject      spiffeid.ID
	Service      string
	Method       string
	Path         string
	Model        string            // "" if the request names none
	Tool         string            // "" if the request names none
	SVIDLifetime identity.Duration // of the caller's SVID, from issue to expiry; 0 if unknown
}

// Decision is the outcome for one Request. The zero Decision denies.
type Decision struct {
	Allowed           bool
	Policy            string // name of the policy that decided, "" for the default
	Reason            string // constant text, safe to show and to count by
	RequestsPerMinute int    // of the deciding policy, 0 for no limit
}
