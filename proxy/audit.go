package proxy

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
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

// trail writes records, one JSON line each, from a bounded queue. A request on
// a route that requires its line reserves room for it beforehand; others lose
// theirs, and are counted, when there is no room.
type trail struct {
	log     *slog.Logger
	dropped func()
	to      io.Writer
	closer  io.Closer // nil if to is not ours

	room  chan struct{} // one token per record that is queued or reserved
	queue chan record   // never blocks for who holds a token
	stop  sync.Once
}

const auditQueue = 16 << 10

// openTrail opens path for appending; "" and "-" are fallback.
func openTrail(path string, fallback io.Writer, log *slog.Logger, dropped func()) (*trail, error) {
	t := &trail{log: log, dropped: dropped, to: fallback}
	if path != "" && path != "-" {
		file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, fmt.Errorf("open the audit file: %w", err)
		}
		t.to, t.closer = file, file
	}
	t.sized(auditQueue)
	return t, nil
}

func (t *trail) sized(n int) {
	t.room, t.queue = make(chan struct{}, n), make(chan record, n)
}

// reserve makes sure of room for one record, and waits a moment for it.
func (t *trail) reserve(ctx context.Context) bool {
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

// put queues a record, for which room was reserved or not.
func (t *trail) put(r record, reserved bool) {
	if !reserved {
		select {
		case t.room <- struct{}{}:
		default:
			t.dropped()
			return
		}
	}
	t.queue <- r
}

// finish makes run return after what is queued. Nothing is put afterwards.
func (t *trail) finish() { t.stop.Do(func() { close(t.queue) }) }

// run writes until finish.
func (t *trail) run() error {
	out := bufio.NewWriterSize(t.to, 64<<10)
	lines := json.NewEncoder(out)
	for r := range t.queue {
		if err := lines.Encode(r); err != nil {
			return t.failed(err)
		}
		if len(t.queue) == 0 {
			if err := out.Flush(); err != nil {
				return t.failed(err)
			}
		}
		<-t.room
	}
	if t.closer != nil {
		return t.closer.Close()
	}
	return nil
}

// failed keeps the trail closed for good: its room fills up, so that routes
// that require their line deny, and others count what they lose.
func (t *trail) failed(err error) error {
	t.log.Error("can't write the audit file; routes that require it deny from now on", "error", err)
	for range t.queue {
		t.dropped() // its token is not given back
	}
	return fmt.Errorf("write the audit file: %w", err)
}
