package workloadapi

import (
	"log/slog"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// hints keeps hints unique within one message: the oldest entry has it, later
// ones are sent without (SPIFFE Workload API section 5.2.1).
type hints struct {
	log  *slog.Logger
	seen map[string]bool
}

func newHints(log *slog.Logger) hints { return hints{log: log, seen: map[string]bool{}} }

// once gives hint the first time and "" after.
func (h hints) once(id spiffeid.ID, hint string) string {
	if hint == "" {
		return ""
	}
	if h.seen[hint] {
		h.log.Warn("hint left out: an older entry of the same workload has it",
			"hint", hint, "spiffe_id", id.String())
		return ""
	}
	h.seen[hint] = true
	return hint
}
