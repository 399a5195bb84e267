package fault

import (
	"context"
	"time"
)

// condition is how the link is for some time. It never changes.
type condition struct {
	cut           bool
	silent        [3]bool // by Direction
	delay, jitter time.Duration
	rate          int           // bytes per second; 0 for as fast as it goes
	over          chan struct{} // closed when another has taken its place
}

func healthy() *condition { return &condition{over: make(chan struct{})} }

// chunk is what was read at once.
type chunk struct {
	data []byte
	at   time.Time // when
	luck float64   // its share of the jitter, in [-1, 1)
}

// rhythm is how often something passes while the link is slow.
const rhythm = 50 * time.Millisecond

// share gives how many bytes of c may pass, and after how long.
func (n *condition) share(c chunk) (bytes int, after time.Duration) {
	if n.rate > 0 {
		bytes = min(len(c.data), max(1, int(rhythm.Seconds()*float64(n.rate))))
		return bytes, time.Duration(float64(bytes) / float64(n.rate) * float64(time.Second))
	}
	if n.delay > 0 {
		return len(c.data), time.Until(c.at.Add(n.delay + time.Duration(c.luck*float64(n.jitter))))
	}
	return len(c.data), 0
}

// last reports whether the condition lasts for d. It returns as soon as it does
// not, or ctx ends.
func (n *condition) last(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-n.over:
	case <-ctx.Done():
	}
	return false
}
