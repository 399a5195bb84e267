// Package attestors lists the workload attestors that an agent has: the one
// place that knows them all.
package attestors

import (
	"github.com/authsec-ai/icp/agent/workload"
	"github.com/authsec-ai/icp/agent/workload/unix"
)

// All gives every attestor by the type of its selectors.
func All() workload.Attestors {
	return workload.Attestors{"unix": unix.New()}
}
