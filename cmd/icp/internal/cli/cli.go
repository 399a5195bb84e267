// Package cli is the command line of the program icp: what an administrator
// asks of the server, and what a workload asks of the agent.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/authsec-ai/icp/identity"
)

// Exit codes.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitDenied      = 4
	exitConflict    = 5
	exitUnreachable = 6
	exitDiffers     = 10
)

const about = `icp administers an ICP server and asks an agent for identities.

Where the server is, and with which token and certificate authority to call it,
is taken from the flags, else from the folder of an 'icp dev' (--dir), else from
ICP_URL, ICP_TOKEN_FILE and ICP_CA_FILE.

Exit codes: 0 done · 1 failed · 2 wrong usage · 3 not found · 4 denied, or no
valid token · 5 conflict with what exists · 6 server or agent out of reach ·
10 'icp diff' found differences`

// Env is what the program gets from its surroundings.
type Env struct {
	Args   []string // without the program's name
	Getenv func(string) string
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
}

// Main runs the command line in env and gives the exit code. more are commands
// that other packages bring.
func Main(ctx context.Context, env Env, more ...*cobra.Command) int {
	root := newRoot(&app{getenv: env.Getenv, output: asTable}, more)
	root.SetArgs(env.Args)
	root.SetIn(env.Stdin)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	if text := err.Error(); text != "" {
		fmt.Fprintln(env.Stderr, "icp: "+safe(text))
	}
	return exitCode(err)
}

func newRoot(a *app, more []*cobra.Command) *cobra.Command {
	root := group("icp", "Administer an ICP server; get identities from an agent",
		entryCommand(a), agentCommand(a), tokenCommand(a), apiTokenCommand(a), tenantCommand(a), policyCommand(a),
		bundleCommand(a), auditCommand(a), applyCommand(a), diffCommand(a), exportCommand(a), apiCommand(a), versionCommand(a))
	for _, command := range more {
		command.Args = takes(0, 0) // so that a wrong argument is wrong usage there, too
		root.AddCommand(command)
	}
	root.Long = about
	root.SilenceUsage, root.SilenceErrors = true, true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usage(cmd, "%s", err) })
	a.addFlags(root.PersistentFlags())
	return root
}

// group is a command that only holds others.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage(cmd, "there is no command %q", identity.Clip(args[0]))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(commands...)
	return cmd
}

// takes checks the number of arguments; most < 0 means any.
func takes(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least || (most >= 0 && len(args) > most) {
			return usage(cmd, "it is used as: %s", cmd.UseLine())
		}
		return nil
	}
}

// usageError is a command line that can't be meant.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usage(cmd *cobra.Command, format string, args ...any) error {
	return &usageError{fmt.Sprintf("%s; try '%s --help'", fmt.Sprintf(format, args...), cmd.CommandPath())}
}

// exitWith is an answer in the form of an exit code; it needs no words.
type exitWith int

func (exitWith) Error() string { return "" }

func exitCode(err error) int {
	var wrong *usageError
	var answer exitWith
	switch {
	case errors.As(err, &wrong):
		return exitUsage
	case errors.As(err, &answer):
		return int(answer)
	}
	switch identity.CodeOf(err) {
	case identity.NotFound:
		return exitNotFound
	case identity.Denied, identity.Unauthenticated:
		return exitDenied
	case identity.Conflict:
		return exitConflict
	case identity.Unavailable, identity.RateLimited:
		return exitUnreachable
	}
	return exitFailure
}
