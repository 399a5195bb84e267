package chaos

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"
)

// Op is what an Event is about.
type Op string

// The operations of a History.
const (
	Start  Op = "start"  // of the product: from the program's start to its word that it is ready
	Kill   Op = "kill"   // Start is before the signal, End after the process was gone
	Create Op = "create" // of an entry
	Update Op = "update" // of an entry
	Delete Op = "delete" // of an entry
	List   Op = "list"   // of all entries, right after a start
	Token  Op = "token"  // a join token is made
	Spend  Op = "spend"  // a node uses a join token
	Open   Op = "open"   // a stream of X.509-SVIDs: from the request to its first message
	Serve  Op = "serve"  // a further message of that stream; End is when it was read
	Close  Op = "close"  // the end of that stream
	Fetch  Op = "fetch"  // of JWT-SVIDs
	Call   Op = "call"   // a request through the proxy
	Fault  Op = "fault"  // of a link: Start is before it was set, End after it was healed
)

// Outcome says what is known of an operation.
type Outcome string

// The outcomes of an operation.
const (
	OK      Outcome = "ok"
	Refused Outcome = "refused" // it had no effect
	Unknown Outcome = "unknown" // no answer came, so it may have happened or not
)

// Nobody owns an entry that no watched process matches.
const Nobody = -1

// Event is one operation, as seen by whoever asked for it. All times are those
// of one machine's clock.
type Event struct {
	N       int64     `json:"n"`
	Op      Op        `json:"op"`
	Start   time.Time `json:"start"`
	End     time.Time `json:"end,omitzero"` // zero if the asker ended before the operation did
	Outcome Outcome   `json:"outcome"`
	Detail  string    `json:"detail,omitempty"` // status or error, for people

	Tag   string   `json:"tag,omitempty"`   // of an entry: its hint, given by Create
	Entry string   `json:"entry,omitempty"` // id of an entry
	UID   int      `json:"uid,omitempty"`   // owner of an entry after the operation (Nobody for none); user of a process that asks
	List  []Listed `json:"list,omitempty"`  // what List answered

	Token string `json:"token,omitempty"` // id of a join token
	Node  string `json:"node,omitempty"`  // SPIFFE ID that a node was given

	Link Link `json:"link,omitempty"` // that had a Fault

	Stream  string `json:"stream,omitempty"`
	Added   []SVID `json:"added,omitempty"`   // what the stream's message has more than the one before
	Removed []SVID `json:"removed,omitempty"` // and less; of Open nothing
	Tokens  []SVID `json:"tokens,omitempty"`  // what Fetch answered
	Shown   *SVID  `json:"shown,omitempty"`   // what Call presented; whose identity Fetch named; what Spend got
}

// Listed is one entry in the answer to List.
type Listed struct {
	ID    string `json:"id"`
	Tag   string `json:"tag,omitempty"`
	Owner int    `json:"owner"` // user that it is for, Nobody if for no watched process
}

// SVID is a credential that a workload was served.
type SVID struct {
	Serial   string    `json:"serial"` // lower-case hex, or jti
	ID       string    `json:"id"`     // SPIFFE ID
	Digest   string    `json:"digest"` // of what was signed
	NotAfter time.Time `json:"not_after"`
}

// History is what happened, in the order of its numbers.
type History []Event

// ReadHistory reads JSON lines. Of several lines with one number the last
// counts: an operation is noted when it begins, and again when it has ended. A
// line that was cut off by the end of its writer is left out.
func ReadHistory(in io.Reader) (History, error) {
	byNumber := map[int64]Event{}
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read the history: %w", err)
		}
		var e Event
		if json.Unmarshal(line, &e) == nil { // else cut off, and written on after
			byNumber[e.N] = e
		}
	}
	h := make(History, 0, len(byNumber))
	for _, e := range byNumber {
		h = append(h, e)
	}
	slices.SortFunc(h, func(a, b Event) int { return int(a.N - b.N) })
	return h, nil
}

// of gives the events of some operations.
func (h History) of(ops ...Op) []Event {
	var list []Event
	for _, e := range h {
		if slices.Contains(ops, e.Op) {
			list = append(list, e)
		}
	}
	return list
}

// end gives the time of the last event.
func (h History) end() time.Time {
	var last time.Time
	for _, e := range h {
		for _, at := range []time.Time{e.Start, e.End} {
			if at.After(last) {
				last = at
			}
		}
	}
	return last
}

// Recorder appends to the file of a History.
type Recorder struct {
	mu   sync.Mutex
	file *os.File
	next int64
	err  error // the first that happened
}

// OpenRecorder continues the file at path, or makes it.
func OpenRecorder(path string) (*Recorder, error) {
	h, err := readHistoryFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open the history: %w", err)
	}
	r := &Recorder{file: file, next: 1}
	if len(h) > 0 {
		r.next = h[len(h)-1].N + 1
		_, r.err = file.WriteString("\n") // ends a line that was cut off
	}
	return r, nil
}

func readHistoryFile(path string) (History, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return ReadHistory(file)
}

// Begin notes an operation whose end is not known yet and gives it its number.
func (r *Recorder) Begin(e Event) Event {
	e.Start, e.Outcome = time.Now(), Unknown
	return r.note(e)
}

// End notes the end of an operation that Begin gave.
func (r *Recorder) End(e Event) {
	e.End = time.Now()
	r.note(e)
}

// Note writes an event that is complete; its number is given here.
func (r *Recorder) Note(e Event) {
	e.N = 0
	r.note(e)
}

func (r *Recorder) note(e Event) Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.N == 0 {
		e.N = r.next
		r.next++
	}
	line, err := json.Marshal(e)
	if err == nil {
		_, err = r.file.Write(append(line, '\n'))
	}
	if r.err == nil {
		r.err = err
	}
	return e
}

// Close gives the first error of all writes.
func (r *Recorder) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return errors.Join(r.err, r.file.Close())
}
