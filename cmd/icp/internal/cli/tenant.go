package cli

import (
	"github.com/spf13/cobra"

	"github.com/authsec-ai/icp/cmd/icp/internal/client"
)

func tenantCommand(a *app) *cobra.Command {
	return group("tenant", "Tenants, for platform administrators", tenantCreate(a), tenantList(a))
}

func tenantCreate(a *app) *cobra.Command {
	var trustDomain string
	cmd := &cobra.Command{
		Use: "create ID", Short: "Make a tenant with a trust anchor of its own", Args: takes(1, 1),
		Example: "  icp tenant create acme --trust-domain acme.example.org",
		RunE: a.run(func(cmd *cobra.Command, c *client.Client, args []string) error {
			t, err := c.CreateTenant(cmd.Context(), args[0], trustDomain)
			if err != nil {
				return err
			}
			return a.show(cmd, t, [2]string{"id", t.ID}, [2]string{"trust_domain", t.TrustDomain}, [2]string{"created_at", timeText(t.CreatedAt)})
		}),
	}
	cmd.Flags().StringVar(&trustDomain, "trust-domain", "", "its primary trust domain (default: the id)")
	return cmd
}

func tenantList(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List tenants", Args: takes(0, 0), Example: "  icp tenant list",
		RunE: a.run(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			tenants, err := c.Tenants(cmd.Context())
			if err != nil {
				return err
			}
			t := table{header: []string{"ID", "TRUST DOMAIN", "CREATED"}}
			for _, n := range tenants {
				t.add(n.ID, n.TrustDomain, timeText(n.CreatedAt))
			}
			return a.list(cmd, tenants, "tenants", t)
		}),
	}
}
