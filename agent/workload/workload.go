// Package workload turns a calling process into the selectors it attests to.
// Each attestor looks at the process from one side; all that apply run side by
// side and their selectors merge.
package workload

import (
	"context"

	"github.com/authsec-ai/icp/agent/peer"
	"github.com/authsec-ai/icp/identity"
)

// Attestor looks at a process and says what it sees. A process it has nothing
// to say about gives no selectors and no error.
type Attestor interface {
	Attest(ctx context.Context, caller *peer.Caller) ([]identity.Selector, error)
}

// Attestation is what all attestors together saw of one process.
type Attestation struct {
	Selectors identity.Selectors
	Evidence  string // SHA-256 over caller and selectors, lower-case hex
}
