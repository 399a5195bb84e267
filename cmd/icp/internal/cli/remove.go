package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/authsec-ai/icp/cmd/icp/internal/client"
)

// deleteByName is a command that deletes each thing that it is given.
func (a *app) deleteByName(use, short, what string, remove func(*client.Client, context.Context, string) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: takes(1, -1),
		RunE: a.run(func(cmd *cobra.Command, c *client.Client, args []string) error {
			for _, name := range args {
				if err := remove(c, cmd.Context(), name); err != nil {
					return err
				}
				a.note(cmd, "deleted %s %s", what, name)
			}
			return nil
		}),
	}
}
