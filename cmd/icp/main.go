// Command icp administers an ICP server and asks an agent for identities.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/authsec-ai/icp/cmd/icp/internal/cli"
	"github.com/authsec-ai/icp/cmd/icp/internal/dev"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Main(ctx, cli.Env{Args: os.Args[1:], Getenv: os.Getenv, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}, dev.Command())
	stop()
	os.Exit(code)
}
