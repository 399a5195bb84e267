// Command bench measures the programs of this tree on this machine and prints a
// Markdown table: first the raw floor, which is what the cryptography alone
// costs, then ours, beside it and beside nginx, all in one run.
//
// It starts every program in a process of its own, on loopback and in a
// temporary folder, and reads the CPU time of the one under test. See
// docs/benchmarks.md for what each figure means.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/authsec-ai/icp/bench/internal/load"
	"github.com/authsec-ai/icp/bench/internal/target"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	if err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
		os.Exit(1)
	}
}

// The other programs that this one is, for processes that it starts itself.
const (
	loadCommand   = "load"   // the load generator: load.Config on standard input, meter.Result on standard output
	targetCommand = "target" // the API behind the gateways: address as argument
)

func run(ctx context.Context, args []string, in io.Reader, out, progress io.Writer) error {
	if len(args) == 1 && args[0] == loadCommand {
		return generateLoad(ctx, in, out)
	}
	if len(args) == 2 && args[0] == targetCommand {
		return serveTarget(ctx, args[1])
	}
	o, err := parseOptions(args, progress)
	if err != nil {
		return err
	}
	return measure(ctx, o, out, progress)
}

func generateLoad(ctx context.Context, in io.Reader, out io.Writer) error {
	var cfg load.Config
	if err := json.NewDecoder(in).Decode(&cfg); err != nil {
		return fmt.Errorf("read what load to make: %w", err)
	}
	result, err := load.Run(ctx, cfg)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(result)
}

// serveTarget serves until the process is told to end.
func serveTarget(ctx context.Context, addr string) error {
	srv := &http.Server{Addr: addr, Handler: target.New(), ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() }) // requests under way are of no more use
	defer stop()
	if err := srv.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
