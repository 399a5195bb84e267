package main

import (
	"flag"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// options say how much is measured.
type options struct {
	only    []string // sections; empty for all
	short   bool     // small rounds: to see that everything runs, not for figures
	rounds  int
	entries int    // that exist beside the measured one
	bin     string // folder with our programs
	json    string // file for the figures of each round
}

func parseOptions(args []string, usage io.Writer) (options, error) {
	var o options
	var only string
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(usage)
	flags.StringVar(&only, "only", "", "measure these `sections`: "+strings.Join(names(), ","))
	flags.BoolVar(&o.short, "short", false, "small rounds, to see that everything runs")
	flags.IntVar(&o.rounds, "rounds", 0, "measure each figure so often; 0 means 3, or 1 with -short")
	flags.IntVar(&o.entries, "entries", 0, "entries that exist while propagation is measured; 0 means 1000, or 50 with -short")
	flags.StringVar(&o.bin, "bin", "bin", "`folder` with our programs")
	flags.StringVar(&o.json, "json", filepath.Join(".work", "bench.json"), "`file` for the figures of each round")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 || o.rounds < 0 || o.entries < 0 {
		return o, fmt.Errorf("unexpected arguments; see -help")
	}
	if only != "" {
		o.only = strings.Split(only, ",")
	}
	for _, name := range o.only {
		if !slices.Contains(names(), name) {
			return o, fmt.Errorf("there is no section %q; sections: %s", name, strings.Join(names(), ", "))
		}
	}
	o.setDefaults()
	return o, nil
}

func (o *options) setDefaults() {
	if o.rounds == 0 {
		o.rounds = o.pick(3, 1)
	}
	if o.entries == 0 {
		o.entries = o.pick(1000, 50)
	}
}

// pick gives the number for a run of this size.
func (o options) pick(full, short int) int {
	if o.short {
		return short
	}
	return full
}

// span is how long one figure is measured in one round.
func (o options) span() time.Duration {
	return time.Duration(o.pick(4000, 100)) * time.Millisecond
}

func (o options) wants(name string) bool { return len(o.only) == 0 || slices.Contains(o.only, name) }
