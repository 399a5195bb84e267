package conform

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/authsec-ai/icp/cmd/spiffe-conform/internal/socket"
)

// Settings say which endpoint is judged, and what the judge may do.
type Settings struct {
	Address socket.Address
	Timeout time.Duration // for any one answer, and for a change to arrive
	AtOnce  time.Duration // in which 99 of 100 first messages of a stream arrive
	Streams int           // that are opened to measure it

	// Rotate and Revoke change the identities of this process; Stranger calls
	// the endpoint as a caller without any. Each may be nil.
	Rotate, Revoke func(ctx context.Context) error
	Stranger       func(ctx context.Context) (Stranger, error)
}

func (s Settings) check() error {
	switch {
	case s.Timeout <= 0 || s.AtOnce <= 0:
		return errors.New("conform: Timeout and AtOnce must be more than nothing")
	case s.Streams < 1:
		return errors.New("conform: at least one stream must be opened")
	}
	return nil
}

// Outcome is how a row ended.
type Outcome string

// The outcomes.
const (
	Passed       Outcome = "passed"
	Failed       Outcome = "failed"
	NeedsControl Outcome = "needs control" // a flag was not given
	NotSeen      Outcome = "not seen"      // something optional is switched off, or too little registered
)

// Result is a row with its outcome.
type Result struct {
	ID      string  `json:"id"`
	Level   Level   `json:"level"`
	Wants   string  `json:"wants"`
	Outcome Outcome `json:"outcome"`
	Seen    string  `json:"seen,omitempty"`
}

// ErrUnreachable says that nobody serves at the address.
var ErrUnreachable = errors.New("nobody serves there")

// Run checks the rows and gives their results in the rows' order. Its error is
// about the run, never about a row.
func Run(ctx context.Context, rows []Row, s Settings) ([]Result, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	if err := reach(ctx, s); err != nil {
		return nil, err
	}
	client, err := socket.Open(s.Address)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	p := newProbe(ctx, s, client)
	results := make([]Result, len(rows))
	for _, turn := range []order{looks, rotates, revokes} {
		for i, row := range rows {
			if row.order == turn {
				results[i] = judge(ctx, row, p)
			}
		}
	}
	return results, ctx.Err()
}

func reach(ctx context.Context, s Settings) error {
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	conn, err := s.Address.Dial(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	return conn.Close()
}

func judge(ctx context.Context, row Row, p *probe) Result {
	result := Result{ID: row.ID, Level: row.Level, Wants: row.Wants, Outcome: Passed}
	var control needsControl
	var hidden notSeen
	seen, err := row.check(ctx, p)
	switch {
	case err == nil:
		result.Seen = seen
		return result
	case errors.As(err, &control):
		result.Outcome = NeedsControl
	case errors.As(err, &hidden):
		result.Outcome = NotSeen
	default:
		result.Outcome = Failed
	}
	result.Seen = err.Error()
	return result
}

// Count says how many results have the outcome.
func Count(results []Result, outcome Outcome) int {
	return len(slices.DeleteFunc(slices.Clone(results), func(r Result) bool { return r.Outcome != outcome }))
}
