package chaos

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

const (
	testBound = time.Second
	user      = 7
	stranger  = 8
)

// at gives a moment of a hand-written history, in seconds from its beginning.
func at(seconds float64) time.Time {
	return time.Unix(1_000_000, 0).Add(time.Duration(seconds * float64(time.Second)))
}

// tale is a history in the making.
type tale struct {
	h History
	r Record
}

func (t *tale) event(op Op, start, end float64, outcome Outcome, fill func(*Event)) {
	e := Event{N: int64(len(t.h) + 1), Op: op, Start: at(start), Outcome: outcome}
	if end != 0 {
		e.End = at(end)
	}
	if fill != nil {
		fill(&e)
	}
	t.h = append(t.h, e)
}

func (t *tale) entry(op Op, start, end float64, outcome Outcome, name string, owner int) {
	t.event(op, start, end, outcome, func(e *Event) {
		e.Tag, e.Entry, e.UID = "tag-"+name, "id-"+name, owner
		if op == Create && outcome == Unknown {
			e.Entry = ""
		}
	})
}

func (t *tale) list(when float64, listed ...Listed) {
	t.event(List, when, when+0.1, OK, func(e *Event) { e.List = listed })
}

func is(name string, owner int) Listed {
	return Listed{ID: "id-" + name, Tag: "tag-" + name, Owner: owner}
}

// svid makes a credential of an entry, and puts it on record.
func (t *tale) svid(serial, kind, name string) SVID {
	t.r.Issued = append(t.r.Issued, Issued{Serial: serial, Kind: kind, State: "issued", Entry: "id-" + name, ID: "spiffe://td/" + name})
	return SVID{Serial: serial, ID: "spiffe://td/" + name, Digest: "digest of " + serial, NotAfter: at(3600)}
}

func (t *tale) open(when float64, svids ...SVID) {
	t.event(Open, when, when, OK, func(e *Event) { e.Stream, e.UID, e.Added = "s", user, svids })
}

func (t *tale) serve(when float64, added, removed []SVID) {
	t.event(Serve, when, when, OK, func(e *Event) { e.Stream, e.UID, e.Added, e.Removed = "s", user, added, removed })
}

func (t *tale) close(when float64) {
	t.event(Close, when, when, Refused, func(e *Event) { e.Stream, e.UID = "s", user })
}

func (t *tale) call(when float64, outcome Outcome, s SVID) {
	t.event(Call, when, when+0.1, outcome, func(e *Event) { e.UID, e.Shown = user, &s })
}

func (t *tale) fault(start, end float64, on Link) {
	t.event(Fault, start, end, OK, func(e *Event) { e.Link = on })
}

func (t *tale) spend(when float64, outcome Outcome, name string) {
	node := "spiffe://td/agent/" + name
	t.event(Spend, when, when+0.2, outcome, func(e *Event) {
		e.Token, e.Node = "token", node
		if outcome == OK {
			e.Shown = &SVID{Serial: "agent-" + name, ID: node, Digest: name, NotAfter: at(3600)}
		}
	})
	if outcome == OK {
		t.r.Issued = append(t.r.Issued, Issued{Serial: "agent-" + name, Kind: "agent", State: "issued", ID: node})
	}
}

// plain is an uneventful history: one entry of the user, seen on a stream, kept
// over a kill.
func plain() *tale {
	t := &tale{}
	t.event(Start, 0, 1, OK, nil)
	t.list(1)
	t.entry(Create, 2, 2.1, OK, "first", user)
	first := t.svid("first-1", "x509", "first")
	t.open(2.5, first)
	t.event(Token, 3, 3.1, OK, func(e *Event) { e.Token = "token" })
	return t
}

// ending kills the product, starts it again and looks at what there is.
func (t *tale) ending(listed ...Listed) {
	t.event(Kill, 30, 30.1, OK, nil)
	t.close(30.1)
	t.event(Start, 31, 32, OK, nil)
	t.list(32, listed...)
}

// broken are hand-written histories that break a promise each. The twin, which
// is not broken, is the same history without the defect.
var broken = []struct {
	name  string
	check string // of Checks
	tell  func(t *tale, broken bool)
}{
	{"a created entry is gone after the kill", "lost committed entry", func(t *tale, broken bool) {
		t.entry(Create, 5, 5.1, OK, "second", stranger)
		if broken {
			t.ending(is("first", user))
			return
		}
		t.ending(is("first", user), is("second", stranger))
	}},
	{"an acknowledged change is undone", "lost committed entry", func(t *tale, broken bool) {
		t.entry(Create, 5, 5.1, OK, "second", stranger)
		t.entry(Update, 6, 6.1, OK, "second", Nobody)
		t.ending(is("first", user), is("second", pick(broken, stranger, Nobody)))
	}},
	{"what was seen once goes without a delete", "lost committed entry", func(t *tale, broken bool) {
		t.entry(Create, 29.9, 30.1, Unknown, "second", stranger)
		t.ending(is("first", user), is("second", stranger))
		if broken {
			t.list(32.3, is("first", user))
			return
		}
		t.list(32.3, is("first", user), is("second", stranger))
	}},
	{"a live entry is not found", "lost committed entry", func(t *tale, broken bool) {
		t.entry(Create, 5, 5.1, OK, "second", stranger)
		if broken {
			t.event(Update, 6, 6.1, Refused, func(e *Event) { e.Entry, e.UID, e.Detail = "id-second", Nobody, notFound })
		} else {
			t.entry(Update, 6, 6.1, OK, "second", Nobody)
		}
		t.entry(Delete, 7, 7.1, Unknown, "second", 0)
		t.ending(is("first", user))
	}},
	{"a live entry is not there to be deleted", "lost committed entry", func(t *tale, broken bool) {
		t.entry(Create, 5, 5.1, OK, "second", stranger)
		t.event(Delete, 6, 6.1, pick(broken, Refused, OK), func(e *Event) {
			if e.Entry = "id-second"; broken {
				e.Detail = notFound
			}
		})
		t.ending(is("first", user))
	}},
	{"the database has less than the server said", "lost committed entry", func(t *tale, broken bool) {
		t.ending(is("first", user))
		t.r.Entries = []Listed{}
		if !broken {
			t.r.Entries = []Listed{is("first", user)}
		}
	}},
	{"a deleted entry is there after the kill", "entry back after deletion", func(t *tale, broken bool) {
		t.entry(Create, 5, 5.1, OK, "second", stranger)
		t.entry(Delete, 6, 6.1, pick(broken, OK, Unknown), "second", 0)
		t.ending(is("first", user), is("second", stranger))
		if !broken { // it turned out not to be deleted; now it is
			t.entry(Delete, 32.2, 32.3, OK, "second", 0)
			t.list(32.4, is("first", user))
		}
	}},
	{"an entry that nobody asked for", "entry back after deletion", func(t *tale, broken bool) {
		t.entry(Create, 5, 5.1, OK, "second", stranger)
		t.entry(Delete, 6, 6.1, OK, "second", 0)
		if broken {
			t.ending(is("first", user), is("third", stranger))
			return
		}
		t.ending(is("first", user))
	}},
	{"a join token is forgotten", "lost committed join token", func(t *tale, broken bool) {
		t.spend(5, pick(broken, Refused, OK), "a")
		t.spend(5.1, Refused, "b")
		t.ending(is("first", user))
	}},
	{"two nodes by one token", "join token spent twice", func(t *tale, broken bool) {
		t.spend(5, OK, "a")
		t.spend(5.1, pick(broken, OK, Refused), "b")
		t.ending(is("first", user))
	}},
	{"two nodes by one token, one without an answer", "join token spent twice", func(t *tale, broken bool) {
		t.spend(5, OK, "a")
		t.spend(5.1, Unknown, "b")
		if broken {
			t.r.Issued = append(t.r.Issued, Issued{Serial: "agent-b", Kind: "agent", State: "issued", ID: "spiffe://td/agent/b"})
		}
		t.ending(is("first", user))
	}},
	{"one serial, two certificates", "duplicate serial", func(t *tale, broken bool) {
		again := t.svid("first-2", "x509", "first")
		t.serve(5, []SVID{again}, nil)
		if broken {
			again.Digest = "of another certificate"
		}
		t.serve(6, []SVID{again}, []SVID{again})
		t.ending(is("first", user))
	}},
	{"an SVID that is not on record", "SVID outside the record", func(t *tale, broken bool) {
		more := t.svid("first-2", "x509", "first")
		if broken {
			t.r.Issued = t.r.Issued[:len(t.r.Issued)-1]
		}
		t.serve(5, []SVID{more}, nil)
		t.ending(is("first", user))
	}},
	{"an SVID that is on record as never made", "SVID outside the record", func(t *tale, broken bool) {
		more := t.svid("first-2", "x509", "first")
		if broken {
			t.r.Issued[len(t.r.Issued)-1].State = "abandoned"
		}
		t.serve(5, []SVID{more}, nil)
		t.ending(is("first", user))
	}},
	{"an SVID that is on record for another", "SVID outside the record", func(t *tale, broken bool) {
		more := t.svid("first-2", "x509", "first")
		if broken {
			t.r.Issued[len(t.r.Issued)-1].ID = "spiffe://td/other"
		}
		t.serve(5, []SVID{more}, nil)
		t.ending(is("first", user))
	}},
	{"an SVID of somebody else's entry", "wrong identity", func(t *tale, broken bool) {
		t.entry(Create, 5, 5.1, OK, "second", pick(broken, stranger, user))
		t.serve(5.5, []SVID{t.svid("second-1", "x509", "second")}, nil)
		t.serve(9, []SVID{t.svid("second-2", "x509", "second")}, nil)
		t.ending(is("first", user), is("second", pick(broken, stranger, user)))
	}},
	{"an SVID of an entry that moved away", "wrong identity", func(t *tale, broken bool) {
		t.entry(Create, 5, 5.1, OK, "second", user)
		second := t.svid("second-1", "x509", "second")
		t.serve(5.5, []SVID{second}, nil)
		t.entry(Update, 8, 8.1, OK, "second", stranger)
		if !broken {
			t.serve(8.9, nil, []SVID{second})
		}
		t.ending(is("first", user), is("second", stranger))
	}},
	{"an SVID before its entry was asked for", "wrong identity", func(t *tale, broken bool) {
		second := t.svid("second-1", "x509", "second")
		if broken {
			t.serve(4, []SVID{second}, nil)
		}
		t.entry(Create, 5, 5.1, OK, "second", user)
		if !broken {
			t.serve(5.2, []SVID{second}, nil)
		}
		t.ending(is("first", user), is("second", user))
	}},
	{"an SVID of an entry that nobody made", "wrong identity", func(t *tale, broken bool) {
		t.serve(5, []SVID{t.svid("more", "x509", pick(broken, "third", "first"))}, nil)
		t.ending(is("first", user))
	}},
	{"the proxy lets an SVID of an entry through that moved away", "wrong identity", func(t *tale, broken bool) {
		t.entry(Create, 5, 5.1, OK, "second", user)
		second := t.svid("second-1", "x509", "second")
		t.serve(5.5, []SVID{second}, nil)
		t.entry(Update, 8, 8.1, OK, "second", stranger)
		t.serve(8.5, nil, []SVID{second})
		t.call(10, pick(broken, OK, Refused), second)
		t.ending(is("first", user), is("second", stranger))
	}},
	{"a JWT-SVID of somebody else's entry", "wrong identity", func(t *tale, broken bool) {
		t.entry(Create, 5, 5.1, OK, "second", stranger)
		token := t.svid("token-1", "jwt", pick(broken, "second", "first"))
		t.event(Fetch, 8, 8.1, OK, func(e *Event) { e.UID, e.Tokens = user, []SVID{token} })
		t.ending(is("first", user), is("second", stranger))
	}},
	{"a stream keeps the SVID of a deleted entry", "SVID after deletion", func(t *tale, broken bool) {
		t.entry(Create, 5, 5.1, OK, "second", user)
		second := t.svid("second-1", "x509", "second")
		t.serve(5.5, []SVID{second}, nil)
		t.entry(Delete, 8, 8.1, OK, "second", 0)
		t.serve(float64(pick(broken, 11, 9)), nil, []SVID{second})
		t.ending(is("first", user))
	}},
	{"a deleted entry is served after a restart", "SVID after deletion", func(t *tale, broken bool) {
		t.entry(Delete, 29, 29.1, OK, "first", 0)
		t.ending()
		t.event(Open, 36, 36, pick(broken, OK, Refused), func(e *Event) {
			if e.UID, e.Stream = user, "s"; broken {
				e.Added = []SVID{t.svid("first-2", "x509", "first")}
			}
		})
		t.serve(37, nil, nil)
	}},
	{"a JWT-SVID after deletion", "SVID after deletion", func(t *tale, broken bool) {
		t.entry(Create, 5, 5.1, OK, "second", user)
		t.serve(5.2, []SVID{t.svid("second-1", "x509", "second")}, nil)
		t.entry(Delete, 5.5, 5.6, OK, "second", 0)
		t.serve(5.9, nil, []SVID{{Serial: "second-1"}})
		token, when := t.svid("token-1", "jwt", "second"), float64(pick(broken, 8, 6))
		t.event(Fetch, when, when+0.1, OK, func(e *Event) { e.UID, e.Tokens = user, []SVID{token} })
		t.ending(is("first", user))
	}},
	{"the proxy lets a deleted entry through", "SVID after deletion", func(t *tale, broken bool) {
		t.entry(Create, 5, 5.1, OK, "second", stranger)
		t.entry(Delete, 6, 6.1, OK, "second", 0)
		t.call(8, pick(broken, OK, Refused), t.svid("second-1", "x509", "second"))
		t.ending(is("first", user))
	}},
	{"a stream keeps the SVID of a deleted entry for too long after a fault", "SVID after deletion", func(t *tale, broken bool) {
		t.entry(Create, 5, 5.1, OK, "second", user)
		second := t.svid("second-1", "x509", "second")
		t.serve(5.5, []SVID{second}, nil)
		t.fault(7.5, 12, AgentLink)
		t.entry(Delete, 8, 8.1, OK, "second", 0)
		t.serve(pick(broken, 13.1, 12.9), nil, []SVID{second})
		t.call(14, Refused, second)
		t.ending(is("first", user))
	}},
	{"a stream keeps the SVID of a deleted entry during a fault of another link", "SVID after deletion", func(t *tale, broken bool) {
		t.entry(Create, 5, 5.1, OK, "second", user)
		second := t.svid("second-1", "x509", "second")
		t.serve(5.5, []SVID{second}, nil)
		t.fault(7.5, 12, pick(broken, ProxyLink, AgentLink))
		t.entry(Delete, 8, 8.1, OK, "second", 0)
		t.serve(12.5, nil, []SVID{second})
		t.call(14, Refused, second)
		t.ending(is("first", user))
	}},
	{"the proxy lets a deleted entry through for too long after a fault", "SVID after deletion", func(t *tale, broken bool) {
		t.entry(Create, 5, 5.1, OK, "second", stranger)
		t.fault(5.5, 9, ProxyLink)
		t.entry(Delete, 6, 6.1, OK, "second", 0)
		t.call(pick(broken, 10.1, 9.8), OK, t.svid("second-1", "x509", "second"))
		t.call(11, Refused, t.svid("second-2", "x509", "second"))
		t.ending(is("first", user))
	}},
	{"an SVID is signed after deletion", "SVID after deletion", func(t *tale, broken bool) {
		t.entry(Create, 5, 5.1, OK, "second", user)
		t.fault(5.5, 29, AgentLink)
		t.fault(5.5, 29, ProxyLink)
		t.entry(Delete, 8, 8.1, OK, "second", 0)
		t.svid("second-1", "x509", "second")
		t.r.Issued[len(t.r.Issued)-1].At = at(pick(broken, 8.2, 8.05))
		t.ending(is("first", user))
	}},
	{"a stream never shows an entry", "missed change", func(t *tale, broken bool) {
		t.entry(Create, 5, 5.1, OK, "second", user)
		if !broken {
			t.serve(6, []SVID{t.svid("second-1", "x509", "second")}, nil)
		}
		t.ending(is("first", user), is("second", user))
	}},
	{"a stream shows an entry too long after a fault", "missed change", func(t *tale, broken bool) {
		t.fault(4, 9, AgentLink)
		t.entry(Create, 5, 5.1, OK, "second", user)
		t.serve(pick(broken, 10.1, 9.9), []SVID{t.svid("second-1", "x509", "second")}, nil)
		t.ending(is("first", user), is("second", user))
	}},
	{"a stream shows an entry late during a fault of another link", "missed change", func(t *tale, broken bool) {
		t.fault(4, 9, pick(broken, ProxyLink, AgentLink))
		t.entry(Create, 5, 5.1, OK, "second", user)
		t.serve(9.5, []SVID{t.svid("second-1", "x509", "second")}, nil)
		t.ending(is("first", user), is("second", user))
	}},
	{"a stream loses an entry for a while", "missed change", func(t *tale, broken bool) {
		first, renewed := t.h[3].Added[0], t.svid("first-2", "x509", "first")
		if broken {
			t.serve(10, nil, []SVID{first})
			t.serve(11, []SVID{renewed}, nil)
		} else {
			t.serve(11, []SVID{renewed}, []SVID{first})
		}
		t.ending(is("first", user))
	}},
	{"a user with an entry is told that there is none", "missed change", func(t *tale, broken bool) {
		t.ending(is("first", user))
		when := pick(broken, 34.0, 32.5)
		t.event(Open, when, when+0.1, Refused, func(e *Event) { e.UID, e.Stream = user, "s" })
		t.open(35, t.svid("first-2", "x509", "first"))
		t.serve(36, nil, nil)
	}},
	{"nobody gets an answer after a restart", "missed change", func(t *tale, broken bool) {
		t.ending(is("first", user))
		if !broken {
			t.open(35, t.svid("first-2", "x509", "first"))
			t.serve(36, nil, nil)
		}
		t.event(Kill, 40, 40.1, OK, nil)
	}},
	{"an expired SVID stays on the stream", "expired SVID served", func(t *tale, broken bool) {
		short, next := t.svid("first-2", "x509", "first"), t.svid("first-3", "x509", "first")
		short.NotAfter = at(15)
		t.serve(5, []SVID{short}, []SVID{{Serial: "first-1"}})
		t.serve(pick(broken, 17.0, 12.0), []SVID{next}, []SVID{short})
		t.ending(is("first", user))
	}},
	{"an SVID that expired during a fault stays on the stream", "expired SVID served", func(t *tale, broken bool) {
		short := t.svid("first-2", "x509", "first")
		short.NotAfter = at(15)
		t.fault(10, 20, AgentLink)
		t.serve(5, []SVID{short}, []SVID{{Serial: "first-1"}})
		t.serve(pick(broken, 21.1, 20.9), []SVID{t.svid("first-3", "x509", "first")}, []SVID{short})
		t.ending(is("first", user))
	}},
	{"an expired SVID is sent", "expired SVID served", func(t *tale, broken bool) {
		short := t.svid("first-2", "x509", "first")
		short.NotAfter = at(15)
		when := pick(broken, 16.1, 14.9)
		t.serve(when, []SVID{short}, nil)
		t.serve(when, nil, []SVID{short})
		t.ending(is("first", user))
	}},
	{"an expired JWT-SVID is sent", "expired SVID served", func(t *tale, broken bool) {
		token := t.svid("token-1", "jwt", "first")
		token.NotAfter = at(8)
		when := pick(broken, 8.1, 7.9)
		t.event(Fetch, when, when+0.2, OK, func(e *Event) { e.UID, e.Tokens = user, []SVID{token} })
		t.ending(is("first", user))
	}},
	{"the proxy refuses a live entry too long after a fault", "live identity refused", func(t *tale, broken bool) {
		t.fault(7, 9, ProxyLink)
		t.call(pick(broken, 10.1, 9.8), Refused, t.h[3].Added[0])
		t.call(11, OK, t.h[3].Added[0])
		t.ending(is("first", user))
	}},
	{"the proxy refuses a live entry", "live identity refused", func(t *tale, broken bool) {
		t.call(8, pick(broken, Refused, OK), t.h[3].Added[0])
		t.ending(is("first", user))
	}},
	{"the proxy refuses what was issued after an entry came back", "live identity refused", func(t *tale, broken bool) {
		first, second := t.h[3].Added[0], t.svid("first-2", "x509", "first")
		t.entry(Update, 5, 5.1, OK, "first", stranger)
		t.serve(5.2, nil, []SVID{first})
		t.entry(Update, 6, 6.1, OK, "first", user)
		t.serve(6.2, []SVID{second}, nil)
		t.call(8, OK, second)
		t.call(8.5, Refused, pick(broken, second, first))
		t.ending(is("first", user))
	}},
	{"a JWT-SVID of a live entry is refused", "live identity refused", func(t *tale, broken bool) {
		token := t.svid("token-1", "jwt", "first")
		t.event(Fetch, 8, 8.1, pick(broken, Refused, OK), func(e *Event) {
			e.UID, e.Shown = user, &t.h[3].Added[0]
			if e.Detail = "PermissionDenied"; !broken {
				e.Tokens = []SVID{token}
			}
		})
		t.ending(is("first", user))
	}},
	{"a restart fails", "did not come back", func(t *tale, broken bool) {
		t.ending(is("first", user))
		t.event(Start, 32.2, 32.4, pick(broken, Refused, Unknown), nil) // unknown: killed on purpose
	}},
	{"it ends by itself", "did not come back", func(t *tale, broken bool) {
		t.event(Kill, 30, 30.1, pick(broken, Refused, OK), nil)
		t.close(30.1)
	}},
	{"the database is damaged", "did not come back", func(t *tale, broken bool) {
		t.ending(is("first", user))
		t.r.Damage = pick(broken, "row 3 missing from index", "")
	}},
}

func TestChecks(t *testing.T) {
	for _, c := range broken {
		t.Run(c.check+"/"+c.name+"/refused", func(t *testing.T) {
			for name, r := range judge(c.tell, true) {
				if fired := len(r.Violations) > 0; fired != (name == c.check) {
					t.Errorf("%s: %d violations: %s", name, len(r.Violations), strings.Join(r.Violations, "\n"))
				}
			}
		})
		t.Run(c.check+"/"+c.name+"/twin", func(t *testing.T) {
			for name, r := range judge(c.tell, false) {
				if len(r.Violations) > 0 {
					t.Errorf("%s: %s", name, strings.Join(r.Violations, "\n"))
				}
				if name == c.check && r.Looked == 0 {
					t.Error("the check looked at nothing")
				}
			}
		})
	}
}

// TestNoExcuse breaks each promise that no fault may break: what was built above
// to break it does so with faults of all links all the time.
func TestNoExcuse(t *testing.T) {
	unexcused := map[string]bool{"lost committed entry": true, "entry back after deletion": true, "lost committed join token": true,
		"join token spent twice": true, "duplicate serial": true, "SVID outside the record": true, "did not come back": true}
	never := map[string]bool{"an SVID of somebody else's entry": true, "an SVID before its entry was asked for": true,
		"an SVID of an entry that nobody made": true, "a JWT-SVID of somebody else's entry": true,
		"an SVID is signed after deletion": true, "an expired SVID is sent": true, "an expired JWT-SVID is sent": true}
	for _, c := range broken {
		if unexcused[c.check] || never[c.name] {
			t.Run(c.check+"/"+c.name, func(t *testing.T) {
				r := judge(func(t *tale, broken bool) {
					t.fault(0.5, 50, AgentLink)
					t.fault(0.5, 50, ProxyLink)
					c.tell(t, broken)
				}, true)
				if len(r[c.check].Violations) == 0 {
					t.Error("a fault excuses it")
				}
			})
			delete(never, c.name)
		}
	}
	if len(never) > 0 {
		t.Errorf("there are no histories of %v", never)
	}
}

func pick[T any](broken bool, bad, good T) T {
	if broken {
		return bad
	}
	return good
}

func judge(tell func(*tale, bool), broken bool) map[string]Result {
	t := plain()
	tell(t, broken)
	c, results := NewCase(t.h, t.r, testBound), map[string]Result{}
	for _, check := range Checks() {
		results[check.Name] = check.Run(c)
	}
	return results
}

// TestReport has a report that is good only if everything was looked at and
// nothing found.
func TestReport(t *testing.T) {
	story := plain()
	story.spend(5, OK, "a")
	story.entry(Create, 6, 6.1, OK, "second", stranger)
	story.entry(Delete, 7, 7.1, OK, "second", 0)
	story.call(8, OK, story.h[3].Added[0])
	story.call(9, Refused, story.svid("second-1", "x509", "second"))
	story.ending(is("first", user))
	for name, c := range map[string]struct {
		change func(*tale)
		good   bool
	}{
		"good":         {func(*tale) {}, true},
		"broken":       {func(t *tale) { t.ending() }, false},
		"looked at no": {func(t *tale) { t.h = t.h[:5] }, false},
	} {
		t.Run(name, func(t *testing.T) {
			told := *story
			c.change(&told)
			var out bytes.Buffer
			good, err := NewCase(told.h, told.r, testBound).Report(&out)
			if err != nil || good != c.good {
				t.Errorf("good is %t (%v), want %t; it printed\n%s", good, err, c.good, out.String())
			}
		})
	}
}
