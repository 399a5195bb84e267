package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync"

	"github.com/authsec-ai/icp/agent/peer"
	"github.com/authsec-ai/icp/agent/workload"
)

// adminHandler serves health, metrics and, for debugging, who is attested.
func (a *Agent) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", a.cfg.Telemetry.Handler())
	mux.HandleFunc("GET /debug/cache", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{ // the client is gone if this fails
			"agent_id":     a.ID(),
			"last_sync":    a.syncer.LastWord(),
			"attestations": a.sessions.keys(),
		})
	})
	return mux
}

// attestations attests callers and remembers, for debugging alone, who is
// connected. No answer to a caller ever comes from this memory.
type attestations struct {
	attestors workload.Attestors

	mu   sync.Mutex
	live map[*peer.Caller]string
}

func newAttestations(attestors workload.Attestors) *attestations {
	return &attestations{attestors: attestors, live: map[*peer.Caller]string{}}
}

// remembered is how many callers are kept before those that left are looked for.
const remembered = 1024

// Attest attests the caller anew.
func (a *attestations) Attest(ctx context.Context, caller *peer.Caller) (workload.Attestation, error) {
	got, err := a.attestors.Attest(ctx, caller)
	if err != nil {
		return workload.Attestation{}, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.live) >= remembered {
		a.sweep()
	}
	if len(a.live) < remembered {
		a.live[caller] = fmt.Sprintf("%d:%s", caller.PID, got.Evidence[:16])
	}
	return got, nil
}

// keys lists "pid:hash" of the connected callers. The hash is over all that was
// seen of the process, so two processes never share a key by their pid.
func (a *attestations) keys() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sweep()
	keys := make([]string, 0, len(a.live))
	for _, key := range a.live {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

func (a *attestations) sweep() {
	for caller := range a.live {
		if caller.Closed() {
			delete(a.live, caller)
		}
	}
}
