// Package selftest shows that the judge can be trusted: a good server passes
// every row, and for every row there is a server that breaks it and is caught.
package selftest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/authsec-ai/icp/cmd/spiffe-conform/internal/builtin"
	"github.com/authsec-ai/icp/cmd/spiffe-conform/internal/conform"
	"github.com/authsec-ai/icp/cmd/spiffe-conform/internal/control"
)

// ErrFailed says that the judge can't be trusted; the output has told why.
var ErrFailed = errors.New("the self-test failed")

// Breakage is a server that breaks a row on purpose.
type Breakage struct {
	Row  string
	Name string // what is broken
	Says string // part of what the failed row must say
	builtin.Behaviour
	Quick bool // the failure is a wait that ends; wait little
}

const (
	patience = 30 * time.Second // for a good server on a busy machine
	little   = 2 * time.Second  // for one that never answers
	atOnce   = 500 * time.Millisecond
	streams  = 24
)

// Run prints each row with how it was made to fail.
func Run(ctx context.Context, w io.Writer, stranger control.Stranger) error {
	failed := false
	good, err := Good(ctx, stranger)
	if err != nil {
		return err
	}
	for _, result := range good {
		if result.Outcome != conform.Passed {
			failed = true
			fmt.Fprintf(w, "a good server does not pass %s: %s: %s\n", result.ID, result.Outcome, result.Seen)
		}
	}
	fmt.Fprintf(w, "a good server passes %d of %d rows\n", conform.Count(good, conform.Passed), len(good))
	ways := breakages()
	for _, row := range conform.Rows() {
		caught, missed := try(ctx, row, ways, stranger)
		switch {
		case len(missed) > 0 || len(caught) == 0:
			failed = true
			fmt.Fprintf(w, "%s can fail: NO (%s)\n", row.ID, strings.Join(append(missed, fmt.Sprintf("%d other ways caught", len(caught))), "; "))
		default:
			fmt.Fprintf(w, "%s can fail: yes (%s)\n", row.ID, strings.Join(caught, "; "))
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if failed {
		return ErrFailed
	}
	return nil
}

// try runs a row against every server that breaks it.
func try(ctx context.Context, row conform.Row, ways []Breakage, stranger control.Stranger) (caught, missed []string) {
	for _, way := range ways {
		if way.Row != row.ID {
			continue
		}
		if err := Broken(ctx, way, stranger); err != nil {
			missed = append(missed, err.Error())
			continue
		}
		caught = append(caught, way.Name)
	}
	return caught, missed
}

// Good runs all rows against the server that keeps to the rules.
func Good(ctx context.Context, stranger control.Stranger) ([]conform.Result, error) {
	return against(ctx, builtin.Behaviour{}, conform.Rows(), stranger, patience)
}

// Broken gives an error unless the row fails as it must.
func Broken(ctx context.Context, b Breakage, stranger control.Stranger) error {
	rows, err := conform.Select([]string{b.Row})
	if err != nil {
		return err
	}
	timeout := patience
	if b.Quick {
		timeout = little
	}
	results, err := against(ctx, b.Behaviour, rows, stranger, timeout)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", b.Name, err)
	case results[0].Outcome != conform.Failed:
		return fmt.Errorf("%s: %s: %s", b.Name, results[0].Outcome, results[0].Seen)
	case !strings.Contains(results[0].Seen, b.Says):
		return fmt.Errorf("%s: it failed for another reason than %q: %s", b.Name, b.Says, results[0].Seen)
	}
	return nil
}

func against(ctx context.Context, b builtin.Behaviour, rows []conform.Row, stranger control.Stranger, timeout time.Duration) ([]conform.Result, error) {
	dir, err := os.MkdirTemp("", "spiffe-conform-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	server, err := builtin.Start(filepath.Join(dir, "s.sock"), b)
	if err != nil {
		return nil, fmt.Errorf("start a server: %w", err)
	}
	defer server.Close()
	return conform.Run(ctx, rows, conform.Settings{
		Address: server.Address(), Timeout: timeout, AtOnce: atOnce, Streams: streams,
		Rotate: server.Rotate, Revoke: server.Revoke, Stranger: stranger.Ask(server.Address(), timeout),
	})
}
