package identity

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Entry is a registration entry: which processes get which SPIFFE ID. The
// system sets the fields here; an administrator sets the Spec. The REST body,
// the sync payload and the store row are this one type.
type Entry struct {
	ID        string    `json:"id"`
	Tenant    string    `json:"tenant"`
	Revision  int64     `json:"revision"` // of the tenant, at the last change of this entry
	CreatedAt time.Time `json:"created_at"`
	Spec
}

// Spec is the part of an Entry that an administrator writes.
type Spec struct {
	SPIFFEID  spiffeid.ID `json:"spiffe_id"`
	ParentID  spiffeid.ID `json:"parent_id"`          // the agent that may ask for it
	Selectors Selectors   `json:"selectors"`          // a process must have all of them
	TTL       Duration    `json:"ttl,omitempty"`      // X.509; 0 means the profile's, then the tenant's
	JWTTTL    Duration    `json:"jwt_ttl,omitempty"`  // JWT; 0 means 5 minutes
	RenewAt   float64     `json:"renew_at,omitempty"` // fraction of the lifetime; 0 means the tenant's
	Profile   string      `json:"profile,omitempty"`  // "" or "ai-agent" (10 minutes)
	Hint      string      `json:"hint,omitempty"`     // Workload API hint, at most 1024 bytes
	DNSNames  []string    `json:"dns_names,omitempty"`
	Gateway   []string    `json:"gateway,omitempty"` // services whose policies this workload may read
}

// Covers reports whether whoever holds a credential that was issued under old
// would get one like it under s: the same SPIFFE ID, no selector or node more to
// match, and no DNS name less. Lifetimes do not count.
func (s Spec) Covers(old Spec) bool {
	sameNodes := s.ParentID == old.ParentID || s.ParentID.IsZero()
	return s.SPIFFEID == old.SPIFFEID && sameNodes && old.Selectors.Contains(s.Selectors) &&
		!slices.ContainsFunc(old.DNSNames, func(name string) bool { return !slices.Contains(s.DNSNames, name) })
}

// Before orders entries oldest first, the order in which identities are served
// (the first is a workload's default identity).
func (e Entry) Before(o Entry) bool {
	if !e.CreatedAt.Equal(o.CreatedAt) {
		return e.CreatedAt.Before(o.CreatedAt)
	}
	return e.ID < o.ID
}

// Node is an attested agent.
type Node struct {
	ID        spiffeid.ID `json:"id"` // spiffe://<primary trust domain>/agent/<name>
	Tenant    string      `json:"tenant"`
	Method    string      `json:"method"` // of node attestation, "join_token"
	SPKI      []byte      `json:"spki"`   // SHA-256 of the agent's public key
	Serial    string      `json:"serial"` // of its current SVID, lower-case hex
	Selectors Selectors   `json:"selectors,omitempty"`
	Banned    bool        `json:"banned"`
	CreatedAt time.Time   `json:"created_at"`
	ExpiresAt time.Time   `json:"expires_at"` // of its current SVID
	LastSeen  time.Time   `json:"last_seen"`
}

// AgentPath gives the path of an agent's ID for the node name.
func AgentPath(name string) string { return "/agent/" + name }

// IsAgentPath reports whether path has the form that is reserved for agents in
// a tenant's primary trust domain: "/agent/" and exactly one segment.
func IsAgentPath(path string) bool {
	name, ok := strings.CutPrefix(path, "/agent/")
	return ok && name != "" && !strings.Contains(name, "/")
}

// Duration is a time.Duration that travels as text ("1h"); a JSON number is
// read as seconds.
type Duration time.Duration

// MarshalJSON writes the text form.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }

// UnmarshalJSON reads text such as "90s" or a whole number of seconds. Any
// length that a time.Duration can hold is read; who uses it bounds it.
func (d *Duration) UnmarshalJSON(b []byte) error {
	var seconds int64
	if json.Unmarshal(b, &seconds) == nil {
		const most = int64(math.MaxInt64 / time.Second)
		if seconds > most || seconds < -most {
			return Errorf(Invalid, "duration of %d seconds is out of range", seconds)
		}
		*d = Duration(time.Duration(seconds) * time.Second)
		return nil
	}
	var text string
	if json.Unmarshal(b, &text) != nil {
		return Errorf(Invalid, `a duration is text such as "1h" or a whole number of seconds`)
	}
	parsed, err := time.ParseDuration(text)
	if err != nil {
		return Errorf(Invalid, `%q is not a duration; write for example "10m" or "1h30m"`, Clip(text))
	}
	*d = Duration(parsed)
	return nil
}

// Revocation names one credential that must no longer be accepted although it
// has not expired.
type Revocation struct {
	Kind      Kind      `json:"kind"`
	Serial    string    `json:"serial"` // X.509: serial in lower-case hex; JWT: jti
	SPIFFEID  string    `json:"spiffe_id"`
	ExpiresAt time.Time `json:"expires_at"`
}

// Kind is a kind of credential.
type Kind string

// The kinds of credential that are issued.
const (
	X509  Kind = "x509"  // X.509-SVID of a workload
	JWT   Kind = "jwt"   // JWT-SVID of a workload
	Agent Kind = "agent" // X.509-SVID of an agent
)
