// Command cmd kills and restarts `icp dev` under load, or server, agent and proxy
// one by one with faults of their links, and judges what was seen from outside:
// `go run ./e2e/chaos/cmd -kills 10 -seed 1 -faults`.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/authsec-ai/icp/e2e/chaos"
)

func main() {
	os.Exit(run())
}

// The exit statuses.
const (
	good       = 0
	violated   = 1
	failed     = 2
	unfinished = 3
)

func run() int {
	if len(os.Args) > 1 && os.Args[1] == chaos.ObserverCommand {
		if err := chaos.Observe(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "observer:", err)
			return failed
		}
		return good
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	code, err := chaosRun(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
	}
	return code
}

func chaosRun(ctx context.Context) (int, error) {
	o := chaos.Options{Log: os.Stdout}
	resume := ""
	flag.StringVar(&o.Bin, "bin", "bin", "folder of the programs to kill")
	flag.BoolVar(&o.Apart, "apart", false, "kill icp-server, icp-agent and agentauth-proxy one by one, instead of icp dev")
	flag.BoolVar(&o.Faults, "faults", false, "as -apart, and in the meantime the links to the server, and from it to PostgreSQL, are cut, silent, late or slow")
	flag.BoolVar(&o.Postgres, "postgres", false, "as -apart, and the server keeps its data in PostgreSQL")
	flag.IntVar(&o.Kills, "kills", 10, "how often to kill it, over all interruptions")
	flag.Uint64Var(&o.Seed, "seed", 0, "what chooses requests and moments; 0 means any")
	flag.DurationVar(&o.Bound, "bound", 0, "within which a change must be seen; 0 means 2s, and 5s for -apart, where parts find each other again")
	flag.DurationVar(&o.Limit, "limit", 70*time.Minute, "after which the run is interrupted")
	flag.StringVar(&resume, "resume", "", "folder of a run that was interrupted; seed, bound, programs and faults are those of then")
	flag.Parse()
	o.Apart = o.Apart || o.Faults || o.Postgres
	if err := check(o, resume); err != nil {
		return failed, err
	}
	if o.Seed == 0 {
		o.Seed = rand.Uint64N(1 << 32)
	}
	if o.Bound == 0 {
		o.Bound = 2 * time.Second
		if o.Apart {
			o.Bound = 5 * time.Second
		}
	}
	var err error
	if o.Bin, err = filepath.Abs(o.Bin); err != nil {
		return failed, err
	}
	if o.Dir = resume; resume == "" {
		if o.Dir, err = newFolder(); err != nil {
			return failed, err
		}
		fmt.Printf("seed %d, %d kills, in %s\n", o.Seed, o.Kills, o.Dir)
	}
	return judge(ctx, o)
}

// check refuses what is no run, before anything is made for it. The folder of a
// run that has ended well is removed, so -resume takes no other.
func check(o chaos.Options, resume string) error {
	programs := []string{"icp"}
	if o.Apart {
		programs = []string{"icp-server", "icp-agent", "agentauth-proxy"}
	}
	if flag.NArg() > 0 {
		return fmt.Errorf("what is %q? -help tells how to use it", flag.Arg(0))
	}
	if o.Kills < 1 {
		return errors.New("-kills has to be 1 or more")
	}
	for _, program := range programs {
		if _, err := os.Stat(filepath.Join(o.Bin, program)); err != nil {
			return fmt.Errorf("%s is not in %s (-bin): run 'make build'", program, o.Bin)
		}
	}
	if resume == "" {
		return nil
	}
	if _, err := os.Stat(filepath.Join(resume, chaos.ProgressFile)); err != nil {
		return fmt.Errorf("there is no run to go on with: %w", err)
	}
	return nil
}

// newFolder makes a folder that every user can walk into.
func newFolder() (string, error) {
	dir, err := os.MkdirTemp("/tmp", "icp-chaos-")
	if err != nil {
		return "", err
	}
	return dir, os.Chmod(dir, 0o755)
}

func judge(ctx context.Context, o chaos.Options) (int, error) {
	began := time.Now()
	c, err := chaos.Run(ctx, o)
	switch {
	case errors.Is(err, chaos.ErrUnfinished):
		return unfinished, fmt.Errorf("interrupted; go on with -kills %d -resume %s", o.Kills, o.Dir)
	case err != nil:
		return failed, fmt.Errorf("%w; what there is stays in %s", err, o.Dir)
	}
	ok, err := c.Report(os.Stdout)
	fmt.Printf("took %s\n", time.Since(began).Round(time.Second))
	switch {
	case err != nil:
		return failed, err
	case !ok:
		return violated, fmt.Errorf("an invariant is broken, or was not looked at; history and logs stay in %s", o.Dir)
	}
	return good, os.RemoveAll(o.Dir)
}
