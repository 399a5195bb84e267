package chaos

import (
	"slices"
	"time"
)

// span is the time from From to To; a zero To means that it has not ended.
type span struct{ from, to time.Time }

// endless is later than anything in a history.
var endless = time.Unix(1<<40, 0)

func (s span) end() time.Time {
	if s.to.IsZero() {
		return endless
	}
	return s.to
}

func (s span) empty() bool { return !s.from.Before(s.end()) }

// meets gives what two spans have in common.
func (s span) meets(o span) span {
	from, to := s.from, s.end()
	if o.from.After(from) {
		from = o.from
	}
	if o.end().Before(to) {
		to = o.end()
	}
	return span{from, to}
}

// covers reports whether all of o lies in s.
func (s span) covers(o span) bool { return !o.from.Before(s.from) && !o.end().After(s.end()) }

// running gives the times at which the product had said that it is ready and
// had not been killed, as far as the history goes.
func (h History) running() []span {
	var list []span
	for _, e := range h.of(Start, Kill) {
		switch {
		case e.Op == Start && e.Outcome == OK:
			list = append(list, span{from: e.End})
		case e.Op == Kill && len(list) > 0 && list[len(list)-1].to.IsZero():
			list[len(list)-1].to = e.Start
		}
	}
	if len(list) > 0 && list[len(list)-1].to.IsZero() {
		list[len(list)-1].to = h.end()
	}
	return list
}

// calm gives the parts of running in which none of the links had a fault. A
// fault whose end nobody noted ended with the product.
func (h History) calm(running []span, links ...Link) []span {
	calm := running
	for _, e := range h.of(Fault) {
		if !slices.Contains(links, e.Link) {
			continue
		}
		for _, up := range running {
			if e.End.IsZero() && !up.meets(span{from: e.Start}).empty() {
				e.End = up.to
			}
		}
		calm = less(calm, span{e.Start, e.End})
	}
	return calm
}

// less gives what of the list lies outside of the hole.
func less(list []span, hole span) []span {
	var rest []span
	for _, s := range list {
		common := s.meets(hole)
		if common.empty() {
			rest = append(rest, s)
			continue
		}
		for _, part := range []span{{s.from, common.from}, {common.to, s.to}} {
			if !part.empty() {
				rest = append(rest, part)
			}
		}
	}
	return rest
}

// settled gives the parts of s in which something that became so at its start
// must be seen by everybody: bound after that, and bound after the start of each
// calm span.
func settled(s span, calm []span, bound time.Duration) []span {
	var list []span
	for _, up := range calm {
		common := s.meets(up)
		common.from = common.from.Add(bound)
		if !common.empty() {
			list = append(list, common)
		}
	}
	return list
}
