// Command bench measures the programs of this tree on this machine and prints a
// Markdown table: first the raw floor, which is what the cryptography alone
// costs, then ours, beside it and beside other gateways, all in one run.
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
	"os"
	"os/signal"
	"syscall"

	"github.com/authsec-ai/icp/bench/internal/load"
	"github.com/authsec-ai/icp/bench/internal/plain"
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

// The other programs that this one is, for processes that it starts itself. Each
// is told what to do by JSON on standard input.
const (
	loadCommand   = "load"   // load.Config: the load generator; meter.Result on standard output
	targetCommand = "target" // target.Config: the API behind the gateways
	peerCommand   = "peer"   // plain.Config: a gateway as the standard library has it
)

func run(ctx context.Context, args []string, in io.Reader, out, progress io.Writer) error {
	if len(args) == 1 {
		switch args[0] {
		case loadCommand:
			return told(in, func(cfg load.Config) error { return generateLoad(ctx, cfg, out) })
		case targetCommand:
			return told(in, func(cfg target.Config) error { return target.Serve(ctx, cfg) })
		case peerCommand:
			return told(in, func(cfg plain.Config) error { return plain.Serve(ctx, cfg) })
		}
	}
	o, err := parseOptions(args, progress)
	if err != nil {
		return err
	}
	return measure(ctx, o, out, progress)
}

func told[Config any](in io.Reader, do func(Config) error) error {
	var cfg Config
	if err := json.NewDecoder(in).Decode(&cfg); err != nil {
		return fmt.Errorf("read what to do: %w", err)
	}
	return do(cfg)
}

func generateLoad(ctx context.Context, cfg load.Config, out io.Writer) error {
	result, err := load.Run(ctx, cfg)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(result)
}
