// Command check starts every component of the stage, prints what each has shown
// of itself, and shows that nothing of them is left.
//
//	go run ./e2e/stage/check            all
//	go run ./e2e/stage/check NAME…      those whose names begin so
//	go run ./e2e/stage/check -left RUN  what the run of that name has left
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/e2e/stage/fault"
)

// component is a part of the stage and how it proves itself.
type component struct {
	name  string
	prove func(stage.T) stage.Proof
}

// components in the order in which they are shown.
var components = []component{
	{"fault proxy", fault.Prove},
}

func main() {
	left := flag.String("left", "", "start nothing; report what the run of this name has left")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	failed := false
	if *left == "" {
		failed = !proveAll(ctx, flag.Args())
		*left = stage.RunID()
	}
	if !nothingLeft(*left) || failed {
		os.Exit(1)
	}
}

// proveAll says whether every component that is asked for has proven itself.
func proveAll(ctx context.Context, names []string) bool {
	from, shown, failed := time.Now(), 0, 0
	fmt.Printf("%-24s %-12s %8s  %s\n", "COMPONENT", "VERSION", "READY", "FACT")
	for _, c := range components {
		if !asked(c.name, names) {
			continue
		}
		shown++
		var proof stage.Proof
		if err := stage.Run(ctx, func(s *stage.Session) { proof = c.prove(s) }); err != nil {
			failed++
			fmt.Printf("%-24s FAILED: %v\n", c.name, err)
			continue
		}
		fmt.Printf("%-24s %-12s %7.2fs  %s\n", c.name, proof.Version, proof.Ready.Seconds(), proof.Fact)
	}
	fmt.Printf("%d components in %.0fs, %d failed\n", shown, time.Since(from).Seconds(), failed)
	if shown == 0 {
		fmt.Println("no component has such a name")
	}
	return failed == 0 && shown > 0
}

func asked(name string, names []string) bool {
	for _, n := range names {
		if strings.HasPrefix(strings.ToLower(name), strings.ToLower(n)) {
			return true
		}
	}
	return len(names) == 0
}

// nothingLeft prints what a run has left and says whether that is nothing.
func nothingLeft(run string) bool {
	var left []string
	for range 150 { // those that undo what a killed program has left may be at work
		var err error
		if left, err = stage.Left(run); err != nil {
			fmt.Fprintln(os.Stderr, "look for what is left:", err)
			return false
		}
		if len(left) == 0 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if len(left) > 0 {
		fmt.Printf("left behind by run %s:\n%s\n", run, strings.Join(left, "\n"))
		return false
	}
	fmt.Println("nothing is left: no process, folder, control group, mount or network namespace")
	return true
}
