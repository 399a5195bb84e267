// Command demo tells the product's story with real processes and prints what
// they read from their own connections.
//
// It starts `icp dev`, then workloads under other user ids, and exits 0 only if
// every step held. DEMO_BREAK=<step> breaks that step on purpose, so that it can
// be seen failing; DEMO_KEEP=1 leaves everything running at the end.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if len(os.Args) > 1 && os.Args[1] == "bot" {
		err = runBot(ctx, os.Args[2:])
	} else {
		err = runStory(ctx, os.Getenv("DEMO_BREAK"), os.Getenv("DEMO_KEEP") == "1")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}
