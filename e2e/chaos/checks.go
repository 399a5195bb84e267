package chaos

import (
	"fmt"
	"slices"
	"time"
)

// Case is what the checks judge. Make it with NewCase.
type Case struct {
	History History
	Record  Record
	Bound   time.Duration // within which a change must be seen

	running  []span
	informed map[Link][]span // when the product ran and the link, and those behind it, had no fault
	lives    []*life
	byEntry  map[string]*life
	sessions []*session
	issued   map[string]Issued // by serial
}

// NewCase prepares a history and what the server has on record at its end.
// Bound is the time within which a change must have reached everybody.
func NewCase(h History, r Record, bound time.Duration) *Case {
	h = h.closedBy(r)
	c := &Case{History: h, Record: r, Bound: bound, running: h.running(), informed: map[Link][]span{}, lives: h.lives(),
		byEntry: map[string]*life{}, sessions: h.sessions(), issued: map[string]Issued{}}
	for _, l := range []Link{AgentLink, ProxyLink} {
		c.informed[l] = h.calm(c.running, l, StoreLink)
	}
	for _, l := range c.lives {
		if l.id != "" {
			c.byEntry[l.id] = l
		}
	}
	for _, i := range r.Issued {
		c.issued[i.Serial] = i
	}
	for _, s := range c.sessions {
		s.shown = map[string][]span{}
		for _, h := range s.held {
			entry := c.issued[h.Serial].Entry
			s.shown[entry] = append(s.shown[entry], h.span)
		}
	}
	return c
}

// closedBy adds what the database says of entries, as the last look at them.
func (h History) closedBy(r Record) History {
	if len(h) == 0 || r.Entries == nil {
		return h
	}
	last := h.end()
	return append(slices.Clip(h), Event{N: h[len(h)-1].N + 1, Op: List, Outcome: OK, Start: last, End: last, List: r.Entries})
}

// Result is what one check found.
type Result struct {
	Looked     int      // facts that could have broken the promise
	Violations []string // one line each
}

func (r *Result) add(format string, args ...any) {
	r.Violations = append(r.Violations, fmt.Sprintf(format, args...))
}

// Check is one promise.
type Check struct {
	Name string // how the promise is broken
	Run  func(*Case) Result
}

// Checks are all promises, in the order of the report.
func Checks() []Check {
	return []Check{
		{"lost committed entry", LostEntry},
		{"entry back after deletion", EntryReturned},
		{"lost committed join token", LostToken},
		{"join token spent twice", TokenSpentTwice},
		{"duplicate serial", DuplicateSerial},
		{"SVID outside the record", OutsideRecord},
		{"wrong identity", WrongIdentity},
		{"SVID after deletion", AfterDeletion},
		{"missed change", MissedChange},
		{"expired SVID served", ExpiredServed},
		{"live identity refused", LiveRefused},
		{"did not come back", NotBack},
	}
}

// LostEntry finds entries that were acknowledged, or seen, and were then not
// there without a DELETE, or otherwise than the last acknowledged change.
func LostEntry(c *Case) (r Result) {
	for _, l := range c.lives {
		r.Looked += l.looks
		r.Violations = append(r.Violations, l.lost...)
	}
	return r
}

// EntryReturned finds entries that were there after an acknowledged DELETE, or
// that nobody asked for.
func EntryReturned(c *Case) (r Result) {
	for _, l := range c.lives {
		if slices.ContainsFunc(l.stretches, gone) || len(l.returned) > 0 {
			r.Looked++
		}
		r.Violations = append(r.Violations, l.returned...)
	}
	return r
}

// LostToken finds join tokens that were made and never let a node in.
func LostToken(c *Case) (r Result) {
	spends := c.spends()
	for _, made := range c.History.of(Token) {
		list := spends[made.Token]
		if made.Outcome != OK || len(list) == 0 {
			continue
		}
		r.Looked++
		if !slices.ContainsFunc(list, func(e Event) bool { return e.Outcome != Refused }) {
			r.add("join token %s was made at %s, and all %d nodes that used it were refused", made.Token, clock(made.End), len(list))
		}
	}
	return r
}

func (c *Case) spends() map[string][]Event {
	byToken := map[string][]Event{}
	for _, e := range c.History.of(Spend) {
		byToken[e.Token] = append(byToken[e.Token], e)
	}
	return byToken
}

// TokenSpentTwice finds join tokens that let more than one node in, by the
// answers and by the record of what was signed for agents.
func TokenSpentTwice(c *Case) (r Result) {
	signed := map[string]int{} // by node
	for _, i := range c.Record.Issued {
		if i.Kind == "agent" {
			signed[i.ID]++
		}
	}
	for token, list := range c.spends() {
		r.Looked++
		let, nodes := 0, map[string]int{}
		for _, e := range list {
			nodes[e.Node] = signed[e.Node]
			if e.Outcome == OK {
				let++
			}
		}
		recorded := 0
		for _, n := range nodes {
			recorded += n
		}
		if let > 1 || recorded > 1 {
			r.add("join token %s let %d nodes in; %d are on record", token, let, recorded)
		}
	}
	return r
}

// sight is one credential that somebody outside saw.
type sight struct {
	SVID
	kind string
	by   Event
}

func (c *Case) sights() []sight {
	var list []sight
	for _, e := range c.History {
		for _, s := range e.Added {
			list = append(list, sight{s, "x509", e})
		}
		for _, s := range e.Tokens {
			list = append(list, sight{s, "jwt", e})
		}
		if e.Op == Spend && e.Outcome == OK && e.Shown != nil {
			list = append(list, sight{*e.Shown, "agent", e})
		}
	}
	return list
}

// DuplicateSerial finds two different credentials with one serial.
func DuplicateSerial(c *Case) (r Result) {
	first := map[string]SVID{}
	for _, s := range c.sights() {
		other, seen := first[s.Serial]
		if !seen {
			first[s.Serial] = s.SVID
			continue
		}
		if other.Digest != s.Digest || other.ID != s.ID {
			r.add("serial %s is of %s and of %s (event %d)", s.Serial, other.ID, s.ID, s.by.N)
		}
	}
	r.Looked = len(first)
	onRecord := map[string]bool{}
	for _, i := range c.Record.Issued {
		if onRecord[i.Serial] {
			r.add("serial %s is on record twice", i.Serial)
		}
		onRecord[i.Serial] = true
	}
	return r
}

// OutsideRecord finds credentials that the server has no record of, or another
// one.
func OutsideRecord(c *Case) (r Result) {
	looked := map[string]bool{}
	for _, s := range c.sights() {
		if looked[s.Serial] {
			continue
		}
		looked[s.Serial] = true
		switch on, ok := c.issued[s.Serial]; {
		case !ok:
			r.add("%s %s of %s was seen at %s (event %d) and is not on record", s.kind, s.Serial, s.ID, clock(s.by.End), s.by.N)
		case on.State == "abandoned":
			r.add("%s %s of %s was seen at %s (event %d) and is on record as abandoned", s.kind, s.Serial, s.ID, clock(s.by.End), s.by.N)
		case on.Kind != s.kind || on.ID != s.ID:
			r.add("%s %s of %s (event %d) is on record as %s of %s", s.kind, s.Serial, s.ID, s.by.N, on.Kind, on.ID)
		}
	}
	r.Looked = len(looked)
	return r
}

// lifeOf gives the entry that a credential was issued for; nil if there is no
// saying.
func (c *Case) lifeOf(serial string) *life { return c.byEntry[c.issued[serial].Entry] }

// possession is a time at which a user's process was served a credential.
type possession struct {
	span
	SVID
	uid  int
	what string
	// whole says that it was served at some time in the span, and not
	// necessarily all the time.
	whole bool
}

func (c *Case) possessions() []possession {
	var list []possession
	for _, s := range c.sessions {
		for _, h := range s.held {
			list = append(list, possession{h.span, h.SVID, s.uid, "stream " + s.name, false})
		}
	}
	for _, e := range c.History.of(Fetch) {
		for _, t := range e.Tokens {
			list = append(list, possession{span{e.Start, e.End}, t, e.UID, fmt.Sprintf("JWT-SVID of event %d", e.N), true})
		}
	}
	return list
}

// within reports a moment at which p was had in the forbidden times.
func (p possession) within(forbidden []span) (time.Time, bool) {
	for _, f := range forbidden {
		switch common := p.meets(f); {
		case p.whole && f.covers(p.span):
			return p.from, true
		case !p.whole && !common.empty():
			return common.from, true
		}
	}
	return time.Time{}, false
}

// heard gives the parts of spans in which whoever is told over the link must
// have heard of what became so at their beginning.
func (c *Case) heard(over Link, spans []span) []span {
	return settledAll(spans, c.informed[over], c.Bound)
}

func settledAll(spans, calm []span, bound time.Duration) []span {
	var list []span
	for _, s := range spans {
		list = append(list, settled(s, calm, bound)...)
	}
	return list
}

// WrongIdentity finds SVIDs that a user's process was served, or let through
// with, although no entry said so: of an entry that does not exist yet, or is for
// others. No fault and no kill is a reason to serve a user what never was that
// user's.
func WrongIdentity(c *Case) (r Result) {
	for _, p := range c.possessions() {
		on, known := c.issued[p.Serial]
		if !known {
			continue // OutsideRecord
		}
		r.Looked++
		l := c.byEntry[on.Entry]
		if l == nil {
			r.add("user %d was served %s (%s), of an entry that nobody made: %s", p.uid, p.ID, p.what, on.Entry)
			continue
		}
		if at, bad := p.within(append(l.before(p.uid), c.heard(AgentLink, l.during(notOfUser(p.uid)))...)); bad {
			r.add("user %d had %s (%s) at %s by %s, which is not for that user", p.uid, p.ID, p.what, clock(at), l.name())
		}
	}
	for _, e := range c.callsDuring(notOfUser) {
		r.Looked++
		if e.Outcome == OK {
			r.add("the proxy let user %d through as %s at %s (event %d), whose entry was for others by then", e.UID, e.Shown.ID, clock(e.Start), e.N)
		}
	}
	return r
}

// callsDuring gives the requests through the proxy that fall into times in which
// their entry certainly passed, for the user who sent them.
func (c *Case) callsDuring(pass func(uid int) func(stretch) bool) []Event {
	var list []Event
	for _, e := range c.History.of(Call) {
		if l := c.lifeOf(e.Shown.Serial); l != nil && !e.End.IsZero() && coveredBy(span{e.Start, e.End}, c.heard(ProxyLink, l.during(pass(e.UID)))) {
			list = append(list, e)
		}
	}
	return list
}

// AfterDeletion finds SVIDs that were served, or let through by the proxy, when
// the deletion of their entry had been acknowledged for longer than the bound,
// and those that were signed after it, for which there is no excuse.
func AfterDeletion(c *Case) (r Result) {
	for _, i := range c.Record.Issued {
		l := c.byEntry[i.Entry]
		if l == nil || i.At.IsZero() {
			continue
		}
		for _, deleted := range l.during(gone) {
			r.Looked++
			if i.At.After(deleted.from) && i.At.Before(deleted.end()) {
				r.add("%s %s was signed at %s; %s was deleted by %s", i.Kind, i.Serial, clock(i.At), l.name(), clock(deleted.from))
			}
		}
	}
	for _, p := range c.possessions() {
		l := c.lifeOf(p.Serial)
		if l == nil {
			continue
		}
		deleted := c.heard(AgentLink, l.during(gone))
		if len(deleted) > 0 {
			r.Looked++
		}
		if at, bad := p.within(deleted); bad {
			r.add("user %d had %s (%s) at %s, after the deletion of %s", p.uid, p.ID, p.what, clock(at), l.name())
		}
	}
	for _, e := range c.callsDuring(func(int) func(stretch) bool { return gone }) {
		r.Looked++
		if e.Outcome == OK {
			r.add("the proxy let %s through at %s (event %d), after the deletion of %s", e.Shown.ID, clock(e.Start), e.N, c.lifeOf(e.Shown.Serial).name())
		}
	}
	return r
}

func coveredBy(s span, list []span) bool {
	return slices.ContainsFunc(list, func(one span) bool { return one.covers(s) })
}

// MissedChange finds streams that did not show an entry of their user for the
// bound after it was acknowledged, or lost it while it was there, and users
// whose processes got no answer at all.
func MissedChange(c *Case) (r Result) {
	byUser := map[int][]*session{}
	for _, s := range c.sessions {
		byUser[s.uid] = append(byUser[s.uid], s)
	}
	denied := map[int][]Event{}
	for _, e := range c.History.of(Open) {
		if e.Outcome == Refused {
			denied[e.UID] = append(denied[e.UID], e)
		}
		if _, ok := byUser[e.UID]; !ok {
			byUser[e.UID] = nil
		}
	}
	for uid, sessions := range byUser {
		for _, l := range c.lives {
			for _, due := range c.heard(AgentLink, l.during(ofUser(uid))) {
				r.Looked++
				c.checkDue(&r, l, due, uid, sessions, denied[uid])
			}
		}
	}
	return r
}

func (c *Case) checkDue(r *Result, l *life, due span, uid int, sessions []*session, denied []Event) {
	observed := false
	for _, s := range sessions {
		common := s.meets(due)
		if common.empty() {
			continue
		}
		observed = true
		if at, missing := without(common, s.shown[l.id]); missing {
			r.add("stream %s of user %d did not show %s at %s; it was due from %s", s.name, uid, l.name(), clock(at), clock(due.from))
		}
	}
	for _, e := range denied {
		if due.covers(span{e.Start, e.End}) {
			observed = true
			r.add("user %d was told at %s (event %d) that there is no identity; %s was due from %s", uid, clock(e.End), e.N, l.name(), clock(due.from))
		}
	}
	if !observed && due.end().Sub(due.from) > c.Bound {
		r.add("no stream of user %d got an answer from %s to %s, when %s was due", uid, clock(due.from), clock(due.end()), l.name())
	}
}

// ExpiredServed finds SVIDs that had expired when they were served, for which
// there is no excuse, and those that a stream still stood for when they had
// expired longer than the bound ago.
func ExpiredServed(c *Case) (r Result) {
	for _, s := range c.sights() {
		at := s.by.End.Add(-c.Bound) // a message may have waited to be read
		if s.by.Op == Fetch {
			at = s.by.Start
		}
		r.Looked++
		if s.NotAfter.Before(at) {
			r.add("user %d was served %s %s of %s at %s (event %d); it had expired at %s", s.by.UID, s.kind, s.Serial, s.ID, clock(s.by.End), s.by.N, clock(s.NotAfter))
		}
	}
	for _, s := range c.sessions {
		for _, h := range s.held {
			r.Looked++
			for _, expired := range c.heard(AgentLink, []span{{from: h.NotAfter}}) {
				if common := h.meets(expired); !common.empty() {
					r.add("stream %s of user %d stood for %s (%s) at %s; it had expired at %s", s.name, s.uid, h.ID, h.Serial, clock(common.from), clock(h.NotAfter))
				}
			}
		}
	}
	return r
}

// LiveRefused finds requests that the proxy did not let through although their
// entry had been of that user since their SVID was first seen, and JWT-SVIDs that
// the agent did not give although their entry was of that user.
func LiveRefused(c *Case) (r Result) {
	seen := c.firstSeen()
	for _, e := range c.History.of(Call, Fetch) {
		if e.Shown == nil || e.End.IsZero() || e.Op == Call && !e.End.Before(e.Shown.NotAfter) {
			continue // a Fetch names nobody if it is of whatever there is
		}
		over := AgentLink
		if e.Op == Call {
			over = ProxyLink
		}
		l := c.lifeOf(e.Shown.Serial)
		if l == nil || !coveredBy(span{e.Start, e.End}, c.heard(over, l.during(ofUser(e.UID)))) {
			continue
		}
		if e.Op == Call && !coveredBy(span{seen[e.Shown.Serial], e.End}, l.during(ofUser(e.UID))) {
			continue // it went to others and came back; what was issued before is revoked
		}
		r.Looked++
		if e.Outcome != OK {
			r.add("%s as %s was refused at %s (event %d): %s", e.Op, e.Shown.ID, clock(e.Start), e.N, e.Detail)
		}
	}
	return r
}

// firstSeen says when each credential was first served, by serial.
func (c *Case) firstSeen() map[string]time.Time {
	first := map[string]time.Time{}
	for _, s := range c.sights() {
		if at, ok := first[s.Serial]; !ok || s.by.End.Before(at) {
			first[s.Serial] = s.by.End
		}
	}
	return first
}

// NotBack finds starts that failed, other than by a kill, ends that nobody asked
// for, and a database that is damaged.
func NotBack(c *Case) (r Result) {
	for _, e := range c.History.of(Start, Kill) {
		r.Looked++
		if e.Outcome == Refused {
			r.add("%s at %s: %s", e.Op, clock(e.Start), e.Detail)
		}
	}
	if c.Record.Damage != "" {
		r.add("the database is damaged: %s", c.Record.Damage)
	}
	return r
}
