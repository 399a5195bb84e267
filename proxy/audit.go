package proxy

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"time"
)

// record is one line of the audit file: a request and what became of it.
type record struct {
	Time      time.Time `json:"time"` // of the request's arrival
	RequestID string    `json:"request_id"`
	Subject   string    `json:"subject"`
	Serial    string    `json:"serial"`
	Remote    string    `json:"remote"`
	Service   string    `json:"service,omitempty"`
	Method    string    `json:"method"`
	Path      string    `json:"path"`
	Model     string    `json:"model,omitempty"`
	Outcome   string    `json:"outcome"` // allowed, denied, refused, failed
	Reason    string    `json:"reason"`
	Policy    string    `json:"policy,omitempty"` // that decided
	Status    int       `json:"status"`           // 0 if the caller left before the answer began
	Bytes     int64     `json:"bytes"`            // of the answer's body, as sent
	Duration  float64   `json:"duration_ms"`
	End       string    `json:"end"` // complete, or what cut the answer short
}

// appendTo adds the record's line to b, byte for byte as encoding/json writes
// it.
func (r *record) appendTo(b []byte) []byte {
	b = append(b, `{"time":"`...)
	b = r.Time.AppendFormat(b, time.RFC3339Nano)
	b = appendText(append(b, `","request_id":`...), r.RequestID)
	b = appendText(append(b, `,"subject":`...), r.Subject)
	b = appendText(append(b, `,"serial":`...), r.Serial)
	b = appendText(append(b, `,"remote":`...), r.Remote)
	b = appendIfAny(b, `,"service":`, r.Service)
	b = appendText(append(b, `,"method":`...), r.Method)
	b = appendText(append(b, `,"path":`...), r.Path)
	b = appendIfAny(b, `,"model":`, r.Model)
	b = appendText(append(b, `,"outcome":`...), r.Outcome)
	b = appendText(append(b, `,"reason":`...), r.Reason)
	b = appendIfAny(b, `,"policy":`, r.Policy)
	b = strconv.AppendInt(append(b, `,"status":`...), int64(r.Status), 10)
	b = strconv.AppendInt(append(b, `,"bytes":`...), r.Bytes, 10)
	b = strconv.AppendFloat(append(b, `,"duration_ms":`...), r.Duration, 'f', -1, 64)
	b = appendText(append(b, `,"end":`...), r.End)
	return append(b, "}\n"...)
}

func appendIfAny(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	return appendText(append(b, name...), value)
}

// appendText adds a JSON string. What may need an escape is left to
// encoding/json.
func appendText(b []byte, text string) []byte {
	for _, c := range []byte(text) {
		if c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			escaped, _ := json.Marshal(text) // a string always marshals
			return append(b, escaped...)
		}
	}
	b = append(b, '"')
	b = append(b, text...)
	return append(b, '"')
}

// trail writes records, one JSON line each, from a bounded buffer. A request on
// a route that requires its line reserves room for it beforehand; others lose
// theirs, and are counted, when there is no room.
type trail struct {
	log     *slog.Logger
	dropped func()
	to      io.Writer
	closer  io.Closer // nil if to is not ours

	room chan struct{} // one token per line that is reserved or not written yet
	more chan struct{} // says that there are lines
	over chan struct{} // closed by finish
	stop sync.Once

	mu    sync.Mutex
	lines []byte // not written yet
	count int    // of lines
}

const (
	auditLines = 16 << 10 // for which there is room
	// auditPause is how long lines gather after each write. The first line after a
	// quiet time is written at once.
	auditPause = 5 * time.Millisecond
	// auditKeep is the largest buffer that is used again.
	auditKeep = 1 << 20
)

// openTrail opens path for appending; "" and "-" are fallback.
func openTrail(path string, fallback io.Writer, log *slog.Logger, dropped func()) (*trail, error) {
	t := &trail{log: log, dropped: dropped, to: fallback, more: make(chan struct{}, 1), over: make(chan struct{})}
	if path != "" && path != "-" {
		file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, fmt.Errorf("open the audit file: %w", err)
		}
		t.to, t.closer = file, file
	}
	t.sized(auditLines)
	return t, nil
}

func (t *trail) sized(n int) { t.room = make(chan struct{}, n) }

// reserve makes sure of room for one record, and waits a moment for it.
func (t *trail) reserve(ctx context.Context) bool {
	select { // seldom is there none
	case t.room <- struct{}{}:
		return true
	default:
	}
	const patience = time.Second
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case t.room <- struct{}{}:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

// put leaves a record to be written, for which room was reserved or not.
func (t *trail) put(r *record, reserved bool) {
	if !reserved {
		select {
		case t.room <- struct{}{}:
		default:
			t.dropped()
			return
		}
	}
	t.mu.Lock()
	t.lines = r.appendTo(t.lines)
	t.count++
	t.mu.Unlock()
	select {
	case t.more <- struct{}{}:
	default: // it has been said
	}
}

// take gives the lines that wait, and how many they are. Further ones gather in
// spare.
func (t *trail) take(spare []byte) ([]byte, int) {
	if cap(spare) > auditKeep {
		spare = nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	lines, n := t.lines, t.count
	t.lines, t.count = spare[:0], 0
	return lines, n
}

// finish makes run return after what waits. Nothing is put afterwards.
func (t *trail) finish() { t.stop.Do(func() { close(t.over) }) }

// run writes until finish.
func (t *trail) run() error {
	var lines []byte
	for more := true; more; {
		more = t.wait()
		var n int
		lines, n = t.take(lines)
		if err := t.write(lines, n); err != nil {
			return t.failed(err, n)
		}
		select {
		case <-time.After(auditPause):
		case <-t.over:
		}
	}
	if t.closer != nil {
		return t.closer.Close()
	}
	return nil
}

// wait returns when there are lines; false means finish.
func (t *trail) wait() bool {
	select {
	case <-t.more:
		return true
	case <-t.over:
		return false
	}
}

// write writes n lines and gives back their room.
func (t *trail) write(lines []byte, n int) error {
	if n == 0 {
		return nil
	}
	if _, err := t.to.Write(lines); err != nil {
		return err
	}
	for range n {
		<-t.room
	}
	return nil
}

// failed keeps the trail closed for good: there is no room any more, so that
// routes that require their line deny, and others count what they lose.
func (t *trail) failed(err error, n int) error {
	t.log.Error("can't write the audit file; routes that require it deny from now on", "error", err)
	t.fill()
	t.lose(n)
	for more := true; more; {
		more = t.wait()
		_, n = t.take(nil) // those for which room was reserved
		t.lose(n)
	}
	return fmt.Errorf("write the audit file: %w", err)
}

func (t *trail) lose(n int) {
	for range n {
		t.dropped()
	}
}

// fill takes all the room that is left.
func (t *trail) fill() {
	for {
		select {
		case t.room <- struct{}{}:
		default:
			return
		}
	}
}
