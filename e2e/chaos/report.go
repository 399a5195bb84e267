package chaos

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// Report runs all checks, prints what they found, and reports whether every
// promise was looked at and none was broken.
func (c *Case) Report(out io.Writer) (bool, error) {
	c.summarize(out)
	table := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "invariant\tlooked at\tviolations")
	var all []string
	good := true
	for _, check := range Checks() {
		result := check.Run(c)
		fmt.Fprintf(table, "%s\t%d\t%d\n", check.Name, result.Looked, len(result.Violations))
		good = good && result.Looked > 0 && len(result.Violations) == 0
		for _, v := range result.Violations {
			all = append(all, check.Name+": "+v)
		}
	}
	err := table.Flush()
	const most = 50
	for _, line := range all[:min(most, len(all))] {
		fmt.Fprintln(out, line)
	}
	if len(all) > most {
		fmt.Fprintf(out, "and %d more\n", len(all)-most)
	}
	return good, err
}

func (c *Case) summarize(out io.Writer) {
	count := map[Op]int{}
	unanswered, refused, kills := 0, 0, 0
	for _, e := range c.History {
		switch {
		case e.Op == Kill && e.Detail == sigterm, e.Op == Fault:
		case e.Op == Kill, e.Op == Start && e.Outcome == Unknown:
			kills++
		case e.Outcome == OK:
			count[e.Op]++
		case e.Outcome == Unknown:
			unanswered++
		case e.Op == Create, e.Op == Update, e.Op == Delete:
			refused++
		}
	}
	fmt.Fprintf(out, "%d kills, %d faults; %d entries created, %d changed, %d deleted, %d changes refused; %d nodes let in; %d credentials seen, %d on record, %d of them without their end; %d requests allowed by the proxy; %d operations without an answer\n",
		kills, len(c.History.of(Fault)), count[Create], count[Update], count[Delete], refused, count[Spend], DuplicateSerial(c).Looked, len(c.Record.Issued), c.Record.Unclosed, count[Call], unanswered)
	took := c.Latencies()
	if len(took) == 0 {
		return
	}
	at := func(percent int) time.Duration {
		return took[(len(took)*percent+99)/100-1].Round(100 * time.Microsecond)
	}
	fmt.Fprintf(out, "acknowledged entry on an open stream: n=%d p50=%s p99=%s max=%s\n", len(took), at(50), at(99), at(100))
}

// Latencies gives, in order, how long after its acknowledgement each entry was
// shown by each stream that was open then; 0 if before.
func (c *Case) Latencies() []time.Duration {
	var list []time.Duration
	for _, s := range c.sessions {
		for _, l := range c.lives {
			for _, due := range l.during(ofUser(s.uid)) {
				if due.from.Before(s.from) || !due.from.Before(s.to) {
					continue
				}
				if shown := s.shown[l.id]; len(shown) > 0 {
					list = append(list, max(0, firstAfter(shown, due.from).Sub(due.from)))
				}
			}
		}
	}
	slices.Sort(list)
	return list
}

// firstAfter gives the first time at or after at when one of the spans holds; at
// itself if none does any more.
func firstAfter(spans []span, at time.Time) time.Time {
	first := time.Time{}
	for _, s := range spans {
		if s.end().After(at) && (first.IsZero() || s.from.Before(first)) {
			first = s.from
		}
	}
	if first.Before(at) {
		return at
	}
	return first
}
