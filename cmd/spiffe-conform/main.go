// Command spiffe-conform holds any SPIFFE Workload API endpoint against the
// SPIFFE specifications, row by row, as far as a caller can see. It knows the
// published protocol alone.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/authsec-ai/icp/cmd/spiffe-conform/internal/conform"
	"github.com/authsec-ai/icp/cmd/spiffe-conform/internal/control"
	"github.com/authsec-ai/icp/cmd/spiffe-conform/internal/selftest"
	"github.com/authsec-ai/icp/cmd/spiffe-conform/internal/socket"
)

const usage = `spiffe-conform: does a SPIFFE Workload API endpoint keep to the specifications?

  spiffe-conform --socket unix:///path [flags]
  spiffe-conform --list
  spiffe-conform --selftest

  --socket ADDRESS    the endpoint, unix:///path or tcp://IP:port (SPIFFE_ENDPOINT_SOCKET)
  --output FORMAT     table or json
  --rows LIST         only these rows or families, as WLEP-05,X509
  --timeout TIME      for any one answer, and for a change to arrive (default 10s)
  --at-once TIME      in which 99 of 100 streams have their first message (default 1s)
  --on-rotate CMD     shell command that changes an identity of this process
  --on-revoke CMD     shell command that takes all identities of this process away
  --other-uid N       a user that has no identity; needs root
  --list              print the rows
  --selftest          show that each row passes on a good server and can fail

The process that runs this needs an identity, better two. Exit status: 0 no row
failed, 1 a row failed, 2 usage, 3 nobody serves on the socket.
`

// The exit statuses.
const (
	statusGood = iota
	statusFailed
	statusUsage
	statusUnreachable
)

// streams are opened to measure how soon the first message comes.
const streams = 1000

func main() {
	if len(os.Args) > 1 && os.Args[1] == control.StrangerFlag {
		os.Exit(control.RunStranger(os.Args[2:], os.Stdout, os.Stderr))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// options are the command line.
type options struct {
	socket, output, rows string
	timeout, atOnce      time.Duration
	onRotate, onRevoke   string
	otherUID             int
	list, selftest       bool
}

func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("spiffe-conform", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // run prints the error
	flags.StringVar(&o.socket, "socket", os.Getenv("SPIFFE_ENDPOINT_SOCKET"), "")
	flags.StringVar(&o.output, "output", "table", "")
	flags.StringVar(&o.rows, "rows", "", "")
	flags.DurationVar(&o.timeout, "timeout", 10*time.Second, "")
	flags.DurationVar(&o.atOnce, "at-once", time.Second, "")
	flags.StringVar(&o.onRotate, "on-rotate", "", "")
	flags.StringVar(&o.onRevoke, "on-revoke", "", "")
	flags.IntVar(&o.otherUID, "other-uid", -1, "")
	flags.BoolVar(&o.list, "list", false, "")
	flags.BoolVar(&o.selftest, "selftest", false, "")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	switch {
	case flags.NArg() > 0:
		return o, fmt.Errorf("what is %q?", flags.Arg(0))
	case o.output != "table" && o.output != "json":
		return o, fmt.Errorf("--output %q: write table or json", o.output)
	case o.timeout <= 0 || o.atOnce <= 0:
		return o, errors.New("--timeout and --at-once must be more than nothing")
	case o.otherUID == os.Getuid():
		return o, fmt.Errorf("--other-uid %d is the user of this process", o.otherUID)
	case o.otherUID >= 0 && os.Getuid() != 0:
		return o, errors.New("--other-uid needs root")
	}
	return o, nil
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, usage)
		return statusGood
	}
	if err != nil {
		fmt.Fprintf(stderr, "spiffe-conform: %v\n--help tells how to use it\n", err)
		return statusUsage
	}
	code, err := o.do(ctx, stdout)
	if err != nil {
		fmt.Fprintf(stderr, "spiffe-conform: %v\n", err)
	}
	return code
}

// do gives the exit status, and why it is none of the first two.
func (o options) do(ctx context.Context, stdout io.Writer) (int, error) {
	rows, err := conform.Select(o.names())
	switch {
	case err != nil:
		return statusUsage, err
	case o.list:
		return statusGood, conform.WriteList(stdout, rows)
	case o.selftest:
		return o.testItself(ctx, stdout)
	}
	settings, err := o.settings()
	if err != nil {
		return statusUsage, err
	}
	results, err := conform.Run(ctx, rows, settings)
	if errors.Is(err, conform.ErrUnreachable) {
		return statusUnreachable, err
	}
	if err != nil {
		return statusFailed, err
	}
	return o.print(stdout, results)
}

func (o options) names() []string {
	if o.rows == "" {
		return nil
	}
	return strings.Split(o.rows, ",")
}

func (o options) testItself(ctx context.Context, stdout io.Writer) (int, error) {
	if err := selftest.Run(ctx, stdout, control.Stranger(os.Getuid())); err != nil {
		return statusFailed, err
	}
	return statusGood, nil
}

func (o options) settings() (conform.Settings, error) {
	address, err := socket.ParseAddress(o.socket)
	if err != nil {
		return conform.Settings{}, fmt.Errorf("--socket: %w", err)
	}
	s := conform.Settings{
		Address: address, Timeout: o.timeout, AtOnce: o.atOnce, Streams: streams,
		Rotate: control.Command(o.onRotate), Revoke: control.Command(o.onRevoke),
	}
	if o.otherUID >= 0 {
		s.Stranger = control.Stranger(o.otherUID).Ask(address, o.timeout)
	}
	return s, nil
}

func (o options) print(stdout io.Writer, results []conform.Result) (int, error) {
	code := statusGood
	if conform.Count(results, conform.Failed) > 0 {
		code = statusFailed
	}
	if o.output == "json" {
		return code, conform.WriteJSON(stdout, o.socket, results)
	}
	return code, conform.WriteTable(stdout, results)
}
