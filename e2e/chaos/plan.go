package chaos

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/authsec-ai/icp/internal/wire"
)

// turn is what the seed has in store for the time from a start to a kill.
type turn struct {
	stillborn time.Duration // after which the start is cut off; 0 if it is not
	life      time.Duration // from when it is ready to the kill
	outages   []outage      // by time
}

// turn gives the next one: killed while it starts, soon after, or well into its
// work, with faults in the meantime.
func (r *runner) turn(rng *rand.Rand) turn {
	t := turn{life: 200*time.Millisecond + upTo(rng, 2*time.Second)}
	dice, long := rng.IntN(10), false
	switch {
	case dice == 0 && r.progress.Done > 0:
		t.stillborn = 20*time.Millisecond + upTo(rng, 600*time.Millisecond)
	case dice >= 4:
		t.life, long = r.Bound+time.Second+upTo(rng, 16*time.Second), true
	}
	if r.Faults && long {
		t.life += upTo(r.faultRng(0), wire.Silence)
	}
	t.outages = r.outages(t.life)
	return t
}

// outages gives what happens to the links in a time after the next start.
func (r *runner) outages(within time.Duration) (list []outage) {
	if !r.Faults {
		return nil
	}
	links := []Link{AgentLink, ProxyLink}
	if r.Postgres {
		links = append(links, StoreLink)
	}
	for i, link := range links {
		list = append(list, outages(r.faultRng(i+1), link, within, r.Bound)...)
	}
	slices.SortStableFunc(list, func(a, b outage) int { return cmp.Compare(a.from, b.from) })
	return list
}

// killRng chooses when to kill and whom.
func (r *runner) killRng() *rand.Rand { return rand.New(rand.NewPCG(r.Seed, uint64(r.progress.Done))) }

// faultRng is apart from killRng, so that the kills are the same without faults.
func (r *runner) faultRng(stream int) *rand.Rand {
	return rand.New(rand.NewPCG(r.Seed, 1<<40|uint64(r.progress.Done)<<8|uint64(stream)))
}
