// Package audit defines the one record that every decision and mutation leaves.
package audit

import (
	"encoding/json"
	"time"
)

// Event is one audit record. The store assigns Seq.
type Event struct {
	Seq       int64           `json:"seq"`
	Time      time.Time       `json:"time"`
	Tenant    string          `json:"tenant"`
	Actor     string          `json:"actor"`   // "token:<id>", a SPIFFE ID, "system"
	Action    string          `json:"action"`  // "entry.create", "node.attest", "svid.issue", …
	Object    string          `json:"object"`  // id or SPIFFE ID acted on
	Outcome   string          `json:"outcome"` // Allowed or Denied
	Reason    string          `json:"reason,omitempty"`
	RequestID string          `json:"request_id,omitempty"`
	Before    json.RawMessage `json:"before,omitempty"`
	After     json.RawMessage `json:"after,omitempty"`
}

// Outcomes of an Event.
const (
	Allowed = "allowed"
	Denied  = "denied"
)
