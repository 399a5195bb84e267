package dev

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/authsec-ai/icp/cmd/internal/program"
)

// Command is `icp dev`.
func Command() *cobra.Command {
	var opts Options
	level := "info"
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run server, agent, proxy and a sample upstream in one process",
		Long: `Run server, agent, proxy and a sample upstream in one process, on loopback.

Everything is kept in one folder: the same folder started again answers at the
same addresses with the same trust bundle and entries, also after kill -9. When
all parts answer, dev.json in the folder names their addresses, and a line that
starts with "ready" is printed.

For development and first steps; not for production.`,
		Example: "  icp dev --dir /tmp/icp-dev",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if opts.LogLevel, err = program.ParseLevel(level); err != nil {
				return err
			}
			opts.Stdout, opts.Stderr = cmd.OutOrStdout(), cmd.ErrOrStderr()
			return Run(cmd.Context(), opts)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.Dir, "dir", "", "folder that keeps everything")
	flags.StringVar(&opts.Listen, "listen", "127.0.0.1:0", "loopback address of the server; port 0 means the last one, or any")
	flags.DurationVar(&opts.PollInterval, "poll-interval", 250*time.Millisecond, "how often the server looks for changes it was not told of")
	flags.StringVar(&level, "log-level", level, "debug, info, warn or error")
	_ = cmd.MarkFlagRequired("dir") // fails only for a flag that does not exist
	return cmd
}
