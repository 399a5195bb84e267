package cli

import (
	"context"
	"fmt"
	"path"

	"github.com/spf13/cobra"

	"github.com/authsec-ai/icp/cmd/icp/internal/client"
)

func agentCommand(a *app) *cobra.Command {
	return group("agent", "See and shut out agents", agentList(a), agentShow(a),
		agentEnd(a, "ban", "Shut agents out for good and revoke what was issued through them", "banned", (*client.Client).BanAgent),
		agentEnd(a, "delete", "Forget agents, which must attest anew, and revoke what was issued through them", "deleted", (*client.Client).DeleteAgent))
}

func agentList(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List attested agents", Args: takes(0, 0), Example: "  icp agent list",
		RunE: a.run(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			agents, err := c.Agents(cmd.Context())
			if err != nil {
				return err
			}
			t := table{header: []string{"ID", "STATUS", "METHOD", "LAST SEEN", "EXPIRES"}}
			for _, g := range agents {
				t.add(g.ID.String(), g.Status, g.Method, timeText(g.LastSeen), timeText(g.ExpiresAt))
			}
			return a.list(cmd, agents, "agents", t)
		}),
	}
}

func agentShow(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "show NODE|SPIFFE-ID", Short: "Show one agent", Args: takes(1, 1), Example: "  icp agent show node-1",
		RunE: a.run(func(cmd *cobra.Command, c *client.Client, args []string) error {
			g, err := c.Agent(cmd.Context(), nodeName(args[0]))
			if err != nil {
				return err
			}
			return a.show(cmd, g,
				[2]string{"id", g.ID.String()}, [2]string{"status", g.Status}, [2]string{"method", g.Method},
				[2]string{"selectors", joined(g.Selectors)}, [2]string{"serial", g.Serial}, [2]string{"key_sha256", fmt.Sprintf("%x", g.SPKI)},
				[2]string{"created_at", timeText(g.CreatedAt)}, [2]string{"expires_at", timeText(g.ExpiresAt)}, [2]string{"last_seen", timeText(g.LastSeen)})
		}),
	}
}

func agentEnd(a *app, use, short, done string, end func(*client.Client, context.Context, string) error) *cobra.Command {
	return &cobra.Command{
		Use: use + " NODE|SPIFFE-ID...", Short: short, Args: takes(1, -1), Example: "  icp agent " + use + " node-1",
		RunE: a.run(func(cmd *cobra.Command, c *client.Client, args []string) error {
			for _, arg := range args {
				if err := end(c, cmd.Context(), nodeName(arg)); err != nil {
					return err
				}
				a.note(cmd, "%s agent %s", done, nodeName(arg))
			}
			return nil
		}),
	}
}

// nodeName takes an agent's name, or its SPIFFE ID, which ends in it.
func nodeName(arg string) string { return path.Base(arg) }
