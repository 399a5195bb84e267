package telemetry

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	limitWindow = 10 * time.Second
	limitLines  = 20
	limitKinds  = 1024
)

// Limit gives log with a bound on lines that strangers can cause: of one kind
// at most 20 in 10 seconds. A kind is a message together with the value of the
// attribute that apart names, so that whoever floods the log hides nobody
// else's lines. The first line of a kind after some were left out says how many
// in "left_out".
func Limit(log *slog.Logger, apart string) *slog.Logger {
	return slog.New(limited{log.Handler(), &lines{apart: apart, seen: map[kind]*count{}}})
}

// limited is a handler that leaves lines out.
type limited struct {
	slog.Handler
	lines *lines
}

type kind struct{ message, value string }

type count struct {
	since   time.Time
	written int
	leftOut int64
}

// lines counts what was written. All loggers made from one share it.
type lines struct {
	apart string

	mu   sync.Mutex
	seen map[kind]*count
}

// Handle writes r if there is room for it.
func (l limited) Handle(ctx context.Context, r slog.Record) error {
	leftOut, ok := l.lines.take(kind{r.Message, l.lines.valueIn(r)}, r.Time)
	if !ok {
		return nil
	}
	if leftOut > 0 {
		r.AddAttrs(slog.Int64("left_out", leftOut))
	}
	return l.Handler.Handle(ctx, r)
}

// WithAttrs gives the handler with attributes.
func (l limited) WithAttrs(attrs []slog.Attr) slog.Handler {
	return limited{l.Handler.WithAttrs(attrs), l.lines}
}

// WithGroup gives the handler with a group.
func (l limited) WithGroup(name string) slog.Handler {
	return limited{l.Handler.WithGroup(name), l.lines}
}

func (l *lines) valueIn(r slog.Record) (value string) {
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == l.apart {
			value = a.Value.String()
		}
		return a.Key != l.apart
	})
	return value
}

// take reports whether a line of kind k may be written, and how many were left
// out before it.
func (l *lines) take(k kind, now time.Time) (leftOut int64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.seen[k]
	if c == nil {
		if len(l.seen) >= limitKinds {
			clear(l.seen)
		}
		c = &count{since: now}
		l.seen[k] = c
	}
	if now.Sub(c.since) >= limitWindow {
		c.since, c.written = now, 0
	}
	if c.written >= limitLines {
		c.leftOut++
		return 0, false
	}
	c.written++
	leftOut, c.leftOut = c.leftOut, 0
	return leftOut, true
}
