package chaos

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/authsec-ai/icp/internal/wire"
)

// TestOutages plans many times: every fault is of the kind, length and distance
// that it may be, and each kind comes.
func TestOutages(t *testing.T) {
	const within, bound = 40 * time.Second, 5 * time.Second
	kinds := map[string]int{}
	for seed := range uint64(500) {
		plan := func() []outage { return outages(rand.New(rand.NewPCG(seed, 0)), AgentLink, within, bound) }
		list := plan()
		if again := plan(); fmt.Sprint(list) != fmt.Sprint(again) {
			t.Fatalf("seed %d plans %v, and then %v", seed, list, again)
		}
		free := time.Duration(0)
		for _, o := range list {
			most, kind := longest, o.what
			switch {
			case o.what == "cut":
				most = longestCut
			case strings.Contains(o.what, "late"):
				kind = "late"
			case strings.HasPrefix(o.what, "silent") && o.length >= wire.Silence:
				most = longestSilence
				kinds["long silence"]++
			}
			if o.link != AgentLink || o.from < free || o.from >= within || o.length < shortest || o.length > most {
				t.Errorf("seed %d plans %q; the one before left the link at %s", seed, o, free)
			}
			free = o.from + o.length + bound + time.Second
			kinds[kind]++
		}
	}
	for _, kind := range []string{"cut", "late", "silent both ways", "silent to the upstream", "silent to the client",
		"long silence", "at 500 bytes a second", "at 32000 bytes a second"} {
		if kinds[kind] == 0 {
			t.Errorf("nothing is ever %q, only %v", kind, kinds)
		}
	}
}

// TestTurn plans one run twice, the second time as one that was interrupted, and
// once without faults: the kills stay where they are.
func TestTurn(t *testing.T) {
	turnOf := func(seed uint64, done int, faults bool) turn {
		r := &runner{Options: Options{Seed: seed, Bound: 5 * time.Second, Faults: faults}, progress: progress{Done: done}}
		return r.turn(r.killRng())
	}
	for seed := range uint64(50) {
		for done := range 10 {
			one, again, calm := turnOf(seed, done, true), turnOf(seed, done, true), turnOf(seed, done, false)
			if fmt.Sprint(one.life, one.stillborn, one.outages) != fmt.Sprint(again.life, again.stillborn, again.outages) {
				t.Fatalf("seed %d, kill %d: first %v, then %v", seed, done, one, again)
			}
			if one.stillborn != calm.stillborn || one.life < calm.life || len(calm.outages) > 0 {
				t.Errorf("seed %d, kill %d: with faults %v, without %v", seed, done, one, calm)
			}
		}
	}
}
