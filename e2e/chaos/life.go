package chaos

import (
	"fmt"
	"slices"
	"time"
)

// state is one state that an entry may be in.
type state struct {
	exists bool
	owner  int // while it exists
}

var absent = state{owner: Nobody}

// stretch is a time in which the entry was in one of states. More than one
// means that an operation was under way, or that its outcome is unknown.
type stretch struct {
	span
	states  []state
	deleted bool // it has existed before; says why it is absent
}

func (s stretch) certain() bool { return len(s.states) == 1 }

// life is what the history says about one entry.
type life struct {
	tag, id   string
	stretches []stretch
	lost      []string // it was seen to be absent, or otherwise than acknowledged
	returned  []string // it was seen after it had been removed
	looks     int      // how often it was looked at
}

func (l *life) name() string {
	if l.tag == "" {
		return "entry " + l.id
	}
	return fmt.Sprintf("entry %s (%s)", l.tag, l.id)
}

func (l *life) now() *stretch { return &l.stretches[len(l.stretches)-1] }

// turn ends the current stretch and begins the next.
func (l *life) turn(at time.Time, states ...state) {
	existed := l.now().deleted || slices.ContainsFunc(l.now().states, func(s state) bool { return s.exists })
	l.now().to = at
	slices.SortFunc(states, state.compare)
	l.stretches = append(l.stretches, stretch{span: span{from: at}, states: slices.Compact(states), deleted: existed})
}

// undergo takes in an operation that brings the entry to a state.
func (l *life) undergo(e Event, to state) {
	if e.Outcome == Refused && e.Detail == notFound {
		l.look(e, absent)
		return
	}
	before := l.now().states
	either := append(slices.Clone(before), to)
	l.turn(e.Start, either...)
	switch e.Outcome {
	case OK:
		l.turn(e.End, to)
	case Refused:
		l.turn(e.End, before...)
	}
}

// notFound is the Detail of an operation on an entry that the server says is
// not there.
const notFound = "404"

// look compares what was seen with what is known. What an operation without an
// answer has come to is known from here on.
func (l *life) look(e Event, seen state) {
	l.looks++
	known := l.now().states
	if !slices.Contains(known, seen) {
		text := fmt.Sprintf("%s was seen as %s at %s (event %d), which can only have been %s", l.name(), seen, clock(e.Start), e.N, known)
		if seen.exists && !slices.ContainsFunc(known, func(s state) bool { return s.exists }) {
			l.returned = append(l.returned, text)
		} else {
			l.lost = append(l.lost, text)
		}
	}
	if len(known) != 1 || known[0] != seen {
		l.turn(e.Start, seen)
	}
}

func (s state) compare(o state) int {
	switch {
	case s.exists == o.exists:
		return s.owner - o.owner
	case o.exists:
		return -1
	}
	return 1
}

func (s state) String() string {
	switch {
	case !s.exists:
		return "absent"
	case s.owner == Nobody:
		return "nobody's"
	}
	return fmt.Sprintf("user %d's", s.owner)
}

func clock(t time.Time) string { return t.Format("15:04:05.000") }

// lives tells the story of every entry.
func (h History) lives() []*life {
	var all []*life
	byTag, byID := map[string]*life{}, map[string]*life{}
	for _, e := range h.of(Create, Update, Delete, List) {
		switch e.Op {
		case Create:
			l := &life{tag: e.Tag, id: e.Entry, stretches: []stretch{{states: []state{absent}}}}
			l.undergo(e, state{true, e.UID})
			all, byTag[l.tag] = append(all, l), l
			if l.id != "" {
				byID[l.id] = l
			}
		case Update, Delete:
			to := absent
			if e.Op == Update {
				to = state{true, e.UID}
			}
			if l := byID[e.Entry]; l != nil {
				l.undergo(e, to)
			}
		case List:
			if e.Outcome == OK {
				all = append(all, lookAtAll(all, byTag, byID, e)...)
			}
		}
	}
	return all
}

// lookAtAll compares every life with the answer to List, and gives those of the
// entries that were there before the history began.
func lookAtAll(all []*life, byTag, byID map[string]*life, e Event) (given []*life) {
	seen := map[*life]state{}
	for _, listed := range e.List {
		l := byID[listed.ID]
		if l == nil {
			if l = byTag[listed.Tag]; l != nil && l.id == "" { // its creation was never answered
				l.id, byID[listed.ID] = listed.ID, l
			}
		}
		if l == nil || l.id != listed.ID {
			l = &life{tag: listed.Tag, id: listed.ID, stretches: []stretch{{span: span{from: e.Start}, states: []state{{true, listed.Owner}}}}}
			given, byID[l.id] = append(given, l), l
			if len(all) > 0 {
				l.returned = append(l.returned, l.name()+" is there, and nobody asked for it")
			}
		}
		seen[l] = state{true, listed.Owner}
	}
	for _, l := range slices.Concat(all, given) {
		is, ok := seen[l]
		if !ok {
			is = absent
		}
		l.look(e, is)
	}
	return given
}

// during gives the times in which every state that the entry may have been in
// passes, joined where they touch.
func (l *life) during(pass func(stretch) bool) []span {
	var list []span
	for _, s := range l.stretches {
		if !pass(s) || s.empty() {
			continue
		}
		if n := len(list); n > 0 && list[n-1].to.Equal(s.from) {
			list[n-1].to = s.to
			continue
		}
		list = append(list, s.span)
	}
	return list
}

// ofUser passes while it certainly is the entry of a user.
func ofUser(uid int) func(stretch) bool {
	return func(s stretch) bool { return s.certain() && s.states[0] == state{true, uid} }
}

// notOfUser passes while it certainly is not, other than by deletion.
func notOfUser(uid int) func(stretch) bool {
	return func(s stretch) bool { return !gone(s) && !slices.Contains(s.states, state{true, uid}) }
}

// before gives the time in which the entry certainly had never been a user's.
func (l *life) before(uid int) []span {
	for i, s := range l.stretches {
		if slices.Contains(s.states, state{true, uid}) {
			if i == 0 {
				return nil
			}
			return []span{{to: s.from}}
		}
	}
	return []span{{}}
}

// gone passes while it certainly does not exist any more.
func gone(s stretch) bool { return s.deleted && s.certain() && !s.states[0].exists }
