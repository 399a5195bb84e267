package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/authsec-ai/icp/e2e/stage/fault"
	"github.com/authsec-ai/icp/internal/wire"
)

// Link is a connection between two programs that may have faults.
type Link string

// The links of what is apart.
const (
	AgentLink Link = agent + " to " + server
	ProxyLink Link = proxy + " to " + server
	StoreLink Link = server + " to PostgreSQL"
)

// outage is a fault of a link for some time.
type outage struct {
	link   Link
	from   time.Duration // after the product was ready
	length time.Duration
	what   string // for people
	set    func(*fault.Proxy)
}

func (o outage) String() string {
	return fmt.Sprintf("at %s for %s: %s %s", o.from.Round(time.Millisecond), o.length.Round(time.Millisecond), o.link, o.what)
}

// The longest that faults last. A cut is so short that the pause between two
// attempts to connect, which doubles, ends within the bound after it; some
// silences are so long that the programs notice.
const (
	shortest       = 300 * time.Millisecond
	longestCut     = 3 * time.Second
	longest        = 6 * time.Second
	longestSilence = wire.Silence + 5*time.Second
)

// outages chooses what happens to a link in a time after a start. After each
// fault there is time to see that all is well again.
func outages(rng *rand.Rand, on Link, within, bound time.Duration) (list []outage) {
	at := upTo(rng, longest/2)
	for at < within {
		o := outage{link: on, from: at}
		o.choose(rng, within-at-bound)
		list = append(list, o)
		at += o.length + bound + time.Second + upTo(rng, longest/2)
	}
	return list
}

// choose chooses a fault; the long ones only if there is so much time left.
func (o *outage) choose(rng *rand.Rand, left time.Duration) {
	o.length = shortest + upTo(rng, longest-shortest)
	switch rng.IntN(4) {
	case 0:
		o.length = min(o.length, shortest+upTo(rng, longestCut-shortest))
		o.what, o.set = "cut", (*fault.Proxy).Cut
	case 1:
		late := (20*time.Millisecond + upTo(rng, 250*time.Millisecond)).Round(time.Millisecond)
		o.what = fmt.Sprintf("%s late, give or take half", late)
		o.set = func(p *fault.Proxy) { p.Delay(late, late/2) }
	case 2:
		way := []fault.Direction{fault.Both, fault.Both, fault.ToUpstream, fault.ToClient}[rng.IntN(4)]
		o.what, o.set = "silent "+way.String(), func(p *fault.Proxy) { p.HalfOpen(way) }
		if left > longestSilence && rng.IntN(2) == 0 {
			o.length = wire.Silence + upTo(rng, longestSilence-wire.Silence)
		}
	case 3:
		rate := 500 << rng.IntN(7)
		o.what, o.set = fmt.Sprintf("at %d bytes a second", rate), func(p *fault.Proxy) { p.Slow(rate) }
	}
}

// suffer lets outages come and go on their links. When ctx ends it heals them.
func (p *plane) suffer(ctx context.Context, list []outage) {
	began := time.Now()
	var group sync.WaitGroup
	for name, on := range p.product.links() {
		group.Go(func() {
			for _, o := range list {
				if o.link == name && wait(ctx, time.Until(began.Add(o.from))) {
					p.inflict(ctx, on, o)
				}
			}
		})
	}
	group.Wait()
}

// inflict sets a fault, heals it when it has lasted long enough or ctx ends, and
// notes it.
func (p *plane) inflict(ctx context.Context, on *fault.Proxy, o outage) {
	e := p.recorder.Begin(Event{Op: Fault, Link: o.link, Detail: o.what})
	o.set(on)
	wait(ctx, o.length)
	on.Heal()
	e.Outcome = OK
	p.recorder.End(e)
}

// wait reports whether ctx has lasted for d.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return ctx.Err() == nil
	}
}
