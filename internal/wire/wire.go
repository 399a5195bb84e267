// Package wire defines every message and path between agent, proxy and server,
// once. Both sides import it; neither adds fields of its own.
//
// Messages are JSON over HTTP/2 with mutual TLS. Unknown fields are ignored on
// this wire, so that agents and servers one version apart understand each
// other.
package wire

import (
	"encoding/json"
	"time"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/policy"
)

// ALPN is offered beside "h2" by clients that have a certificate to show. The
// server asks nobody else for one.
const ALPN = "icp-mtls"

// Paths of the agent and gateway API.
const (
	PathAttest  = "/api/v1/agent/attest"     // POST AttestRequest → AttestResponse; no client certificate
	PathRenew   = "/api/v1/agent/renew"      // POST RenewRequest → AttestResponse; agent SVID, possibly expired
	PathSync    = "/api/v1/agent/sync"       // GET ?epoch=&revision= → stream of SyncFrame, one JSON object a line
	PathSign    = "/api/v1/agent/sign"       // POST SignRequest → SignResponse
	PathSignJWT = "/api/v1/agent/sign-jwt"   // POST SignJWTRequest → SignJWTResponse
	PathGateway = "/api/v1/gateway/policies" // GET → stream of PolicyFrame; workload SVID whose entry has a gateway grant
)

const (
	// Heartbeat is the pause after which an idle stream sends an empty frame.
	Heartbeat = 5 * time.Second
	// Silence is how long a client waits for a frame before it reconnects.
	Silence = 15 * time.Second
	// MaxFrameBytes bounds one line of an agent's stream.
	MaxFrameBytes = 1 << 20
	// MaxPolicyFrameBytes bounds one line of a gateway's stream. It is larger
	// because a set of policies and a list of revocations are never split.
	MaxPolicyFrameBytes = 16 << 20
	// MaxBatch is the most items in one sign request.
	MaxBatch = 500
)

// AttestRequest asks for an agent SVID.
type AttestRequest struct {
	Method string          `json:"method"` // "join_token"
	Token  string          `json:"token,omitempty"`
	NodeID string          `json:"node_id,omitempty"` // wanted node name; the token may fix it
	Data   json.RawMessage `json:"data,omitempty"`    // evidence of other methods
	CSR    []byte          `json:"csr"`               // PKCS #10, DER: only key and proof are taken
}

// RenewRequest asks for a new agent SVID for the key that the node row holds.
type RenewRequest struct {
	CSR []byte `json:"csr"` // PKCS #10, DER, same key
}

// AttestResponse carries an agent's identity.
type AttestResponse struct {
	AgentID     string          `json:"agent_id"`
	SPIFFEID    string          `json:"spiffe_id"` // same as AgentID
	Tenant      string          `json:"tenant"`
	TrustDomain string          `json:"trust_domain"` // primary
	Certificate string          `json:"certificate"`  // PEM chain, leaf first
	SVID        string          `json:"svid"`         // same as Certificate
	CABundle    string          `json:"ca_bundle"`    // PEM anchors of the workload trust domain
	Bundle      json.RawMessage `json:"bundle"`       // the same as a SPIFFE bundle document
	TTL         int64           `json:"ttl"`          // seconds
	ExpiresAt   time.Time       `json:"expires_at"`
}

// SyncFrame is one step of an agent's sync stream. With Reset the agent forgets
// what it has; what follows up to the frame with Done is then its whole state.
// Only at Done is (Epoch, Revision) a cursor to come back with. A frame with
// nothing in it is a heartbeat.
type SyncFrame struct {
	Epoch    string                     `json:"epoch,omitempty"`
	Revision int64                      `json:"revision,omitempty"`
	Reset    bool                       `json:"reset,omitempty"`
	Done     bool                       `json:"done,omitempty"`
	Upserts  []identity.Entry           `json:"upserts,omitempty"`
	Deletes  []string                   `json:"deletes,omitempty"` // entry ids
	Bundles  map[string]json.RawMessage `json:"bundles,omitempty"` // trust domain → SPIFFE bundle; complete when present
	Settings *AgentSettings             `json:"settings,omitempty"`
	Time     time.Time                  `json:"time"` // server clock, to notice skew
}

// AgentSettings are the tenant's defaults that agents apply.
type AgentSettings struct {
	RenewAt float64 `json:"renew_at"`
}

// SignRequest asks for X.509-SVIDs, one per item, at most MaxBatch.
type SignRequest struct {
	Items []SignItem `json:"items"`
}

// SignItem asks for one X.509-SVID.
type SignItem struct {
	RequestID     string             `json:"request_id"` // a retry with the same id and key gets the same serial
	EntryID       string             `json:"entry_id"`
	EntryRevision int64              `json:"entry_revision"`
	Selectors     identity.Selectors `json:"selectors"` // attested; must contain the entry's
	Evidence      string             `json:"evidence"`  // digest of what the attestors saw
	CSR           []byte             `json:"csr"`       // PKCS #10, DER
}

// SignResponse answers item by item, in order.
type SignResponse struct {
	Results []SignResult `json:"results"`
}

// SignResult holds a chain, or why there is none.
type SignResult struct {
	Chain     [][]byte  `json:"chain,omitempty"` // DER, leaf first, without the anchor
	ExpiresAt time.Time `json:"expires_at,omitzero"`
	Error     *Problem  `json:"error,omitempty"`
}

// SignJWTRequest asks for JWT-SVIDs.
type SignJWTRequest struct {
	Items []SignJWTItem `json:"items"`
}

// SignJWTItem asks for one JWT-SVID.
type SignJWTItem struct {
	RequestID     string             `json:"request_id"`
	EntryID       string             `json:"entry_id"`
	EntryRevision int64              `json:"entry_revision"`
	Selectors     identity.Selectors `json:"selectors"`
	Evidence      string             `json:"evidence"`
	Audience      []string           `json:"audience"`
}

// SignJWTResponse answers item by item, in order.
type SignJWTResponse struct {
	Results []SignJWTResult `json:"results"`
}

// SignJWTResult holds a token, or why there is none.
type SignJWTResult struct {
	Token     string    `json:"token,omitempty"`
	IssuedAt  time.Time `json:"issued_at,omitzero"`
	ExpiresAt time.Time `json:"expires_at,omitzero"`
	Error     *Problem  `json:"error,omitempty"`
}

// Problem is an identity.Error on the wire.
type Problem struct {
	Code    identity.Code `json:"code"`
	Message string        `json:"message"`
}

// Err gives the Problem as an error; nil for nil.
func (p *Problem) Err() error {
	if p == nil {
		return nil
	}
	return &identity.Error{Code: p.Code, Message: p.Message}
}

// ProblemOf gives what a caller may be told about err; nil for nil.
func ProblemOf(err error) *Problem {
	if err == nil {
		return nil
	}
	return &Problem{Code: identity.CodeOf(err), Message: identity.MessageOf(err)}
}

// PolicyFrame is one step of a gateway's stream. A frame without Policies and
// Revocations is a heartbeat.
type PolicyFrame struct {
	Policies    *policy.Set                `json:"policies,omitempty"`    // complete when present
	Revocations *[]identity.Revocation     `json:"revocations,omitempty"` // complete when present
	Bundles     map[string]json.RawMessage `json:"bundles,omitempty"`     // reserved
	Time        time.Time                  `json:"time"`
}
