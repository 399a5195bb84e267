package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/authsec-ai/icp/cmd/icp/internal/client"
)

func auditCommand(a *app) *cobra.Command {
	return group("audit", "The record of every decision and change", auditList(a))
}

func auditList(a *app) *cobra.Command {
	var before int64
	var limit int
	cmd := &cobra.Command{
		Use: "list", Short: "List audit events, newest first", Args: takes(0, 0),
		Example: "  icp audit list --limit 20\n  icp audit list --before 4711 --output json",
		RunE: a.run(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			if limit < 1 || before < 0 {
				return usage(cmd, "--limit is at least 1, and --before is a sequence number")
			}
			events, err := c.Events(cmd.Context(), before, limit)
			if err != nil {
				return err
			}
			t := table{header: []string{"SEQ", "TIME", "ACTOR", "ACTION", "OBJECT", "OUTCOME", "REASON"}}
			for _, ev := range events {
				t.add(fmt.Sprint(ev.Seq), timeText(ev.Time), ev.Actor, ev.Action, ev.Object, ev.Outcome, ev.Reason)
			}
			return a.list(cmd, events, "audit events", t)
		}),
	}
	cmd.Flags().IntVar(&limit, "limit", 50, "at most so many")
	cmd.Flags().Int64Var(&before, "before", 0, "only those before this sequence number")
	return cmd
}
