package chaos

import "time"

// held is an SVID that a process had from its stream.
type held struct {
	SVID
	span
}

// session is one stream, from its first message on.
type session struct {
	span
	uid  int
	name string
	held []held
	// shown says when an entry had an SVID in the stream; by entry id.
	shown map[string][]span
}

// sessions puts the streams together from their messages. A stream whose end
// was not noted ends with its last message.
func (h History) sessions() []*session {
	var all []*session
	open := map[string]*session{}
	current := map[string]map[string]int{} // by stream and serial, index in held
	for _, e := range h.of(Open, Serve, Close) {
		s := open[e.Stream]
		switch {
		case e.Op == Open && e.Outcome == OK:
			s = &session{uid: e.UID, name: e.Stream, span: span{e.End, e.End}}
			all, open[e.Stream], current[e.Stream] = append(all, s), s, map[string]int{}
		case s == nil || e.Op == Open:
			continue
		}
		s.to = e.End
		s.take(e, current[e.Stream])
		if e.Op == Close {
			delete(open, e.Stream)
		}
	}
	for _, s := range all {
		for i := range s.held {
			if s.held[i].to.IsZero() {
				s.held[i].to = s.to
			}
		}
	}
	return all
}

func (s *session) take(e Event, current map[string]int) {
	for _, gone := range e.Removed {
		if i, ok := current[gone.Serial]; ok {
			s.held[i].to = e.End
			delete(current, gone.Serial)
		}
	}
	for _, got := range e.Added {
		current[got.Serial] = len(s.held)
		s.held = append(s.held, held{SVID: got, span: span{from: e.End}})
	}
}

// without gives the first moment in s at which none of the given spans holds;
// false if there is none.
func without(s span, spans []span) (time.Time, bool) {
	at := s.from
	for moved := true; moved; {
		moved = false
		for _, one := range spans {
			if !at.Before(one.from) && at.Before(one.end()) {
				at, moved = one.end(), true
			}
		}
	}
	return at, at.Before(s.end())
}
