package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/authsec-ai/icp/cmd/icp/internal/client"
	"github.com/authsec-ai/icp/server/store"
)

func tokenCommand(a *app) *cobra.Command {
	return group("token", "Join tokens: let a new agent in, once",
		tokenCreate(a), tokenList(a), tokenDelete(a))
}

func tokenCreate(a *app) *cobra.Command {
	var nodeName string
	var ttl time.Duration
	cmd := &cobra.Command{
		Use: "create", Short: "Make a join token and print it", Args: takes(0, 0),
		Example: "  icp token create --node-name node-1 --ttl 10m > join.token",
		RunE: a.run(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			t, err := c.CreateJoinToken(cmd.Context(), nodeName, ttl)
			if err != nil {
				return err
			}
			if a.output == asJSON {
				return writeJSON(cmd.OutOrStdout(), t)
			}
			a.note(cmd, "join token %s works once, until %s; it is not shown again", t.ID, timeText(t.ExpiresAt))
			_, err = fmt.Fprintln(cmd.OutOrStdout(), t.Token)
			return err
		}),
	}
	cmd.Flags().StringVar(&nodeName, "node-name", "", "name of the node (default: the agent chooses)")
	cmd.Flags().DurationVar(&ttl, "ttl", 0, "how long it can be used (default 1h)")
	return cmd
}

func tokenList(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List join tokens that were not used yet", Args: takes(0, 0), Example: "  icp token list",
		RunE: a.run(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			tokens, err := c.JoinTokens(cmd.Context())
			if err != nil {
				return err
			}
			t := table{header: []string{"ID", "NODE", "CREATED", "EXPIRES"}}
			for _, k := range tokens {
				t.add(k.ID, k.NodeName, timeText(k.CreatedAt), timeText(k.ExpiresAt))
			}
			return a.list(cmd, tokens, "unused join tokens", t)
		}),
	}
}

func tokenDelete(a *app) *cobra.Command {
	return a.deleteByName("delete ID...", "Take join tokens back", "join token", (*client.Client).DeleteJoinToken)
}

func apiTokenCommand(a *app) *cobra.Command {
	return group("api-token", "API tokens: let people and programs call the server",
		apiTokenCreate(a), apiTokenList(a),
		a.deleteByName("delete ID...", "End API tokens at once", "API token", (*client.Client).DeleteAPIToken))
}

func apiTokenCreate(a *app) *cobra.Command {
	var name, role string
	var ttl time.Duration
	cmd := &cobra.Command{
		Use: "create", Short: "Make an API token and print it", Args: takes(0, 0),
		Example: "  icp api-token create --name ci --role viewer --ttl 24h > ci.token",
		RunE: a.run(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			if name == "" || role == "" {
				return usage(cmd, "--name and --role are needed")
			}
			t, err := c.CreateAPIToken(cmd.Context(), name, store.Role(role), ttl)
			if err != nil {
				return err
			}
			if a.output == asJSON {
				return writeJSON(cmd.OutOrStdout(), t)
			}
			a.note(cmd, "API token %s of role %s works until %s; it is not shown again", t.ID, t.Role, timeText(t.ExpiresAt))
			_, err = fmt.Fprintln(cmd.OutOrStdout(), t.Token)
			return err
		}),
	}
	cmd.Flags().StringVar(&name, "name", "", "what the audit trail calls it")
	cmd.Flags().StringVar(&role, "role", "", "tenant-admin, viewer, auditor or platform-admin")
	cmd.Flags().DurationVar(&ttl, "ttl", 0, "how long it works (default 30 days)")
	return cmd
}

func apiTokenList(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List API tokens", Args: takes(0, 0), Example: "  icp api-token list",
		RunE: a.run(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			tokens, err := c.APITokens(cmd.Context())
			if err != nil {
				return err
			}
			t := table{header: []string{"ID", "NAME", "ROLE", "CREATED", "EXPIRES"}}
			for _, k := range tokens {
				t.add(k.ID, k.Name, string(k.Role), timeText(k.CreatedAt), timeText(k.ExpiresAt))
			}
			return a.list(cmd, tokens, "API tokens", t)
		}),
	}
}
