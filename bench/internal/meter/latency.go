package meter

import (
	"slices"
	"time"
)

// Latencies are the times that single operations took.
type Latencies []time.Duration

// Quantile gives the latency that the share q of operations (0 to 1) did not
// exceed; 0 without operations. It sorts l.
func (l Latencies) Quantile(q float64) time.Duration {
	if len(l) == 0 {
		return 0
	}
	slices.Sort(l)
	return l[min(int(q*float64(len(l))), len(l)-1)]
}
