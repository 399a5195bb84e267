package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/authsec-ai/icp/cmd/icp/internal/client"
	"github.com/authsec-ai/icp/identity"
)

func entryCommand(a *app) *cobra.Command {
	return group("entry", "Register workloads: which processes get which SPIFFE ID",
		entryCreate(a), entryList(a), entryShow(a), entryUpdate(a), entryDelete(a))
}

// specFlags are the fields of an entry that can be given on the command line.
type specFlags struct {
	spiffeID, parentID string
	selectors          []string
	ttl, jwtTTL        time.Duration
	renewAt            float64
	profile, hint      string
	dnsNames, gateway  []string
}

func (f *specFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&f.spiffeID, "spiffe-id", "", "identity to give, spiffe://trust-domain/path")
	flags.StringVar(&f.parentID, "parent-id", "", "agent that may ask for it, spiffe://trust-domain/agent/node (with --dir: its agent)")
	flags.StringArrayVar(&f.selectors, "selector", nil, "what a process must be, type:key:value; repeat, all must match")
	flags.DurationVar(&f.ttl, "ttl", 0, "lifetime of certificates (default: the profile's, then the tenant's)")
	flags.DurationVar(&f.jwtTTL, "jwt-ttl", 0, "lifetime of JWTs (default 5m)")
	flags.Float64Var(&f.renewAt, "renew-at", 0, "part of the lifetime after which to renew (default: the tenant's)")
	flags.StringVar(&f.profile, "profile", "", `"ai-agent" for certificates of ten minutes`)
	flags.StringVar(&f.hint, "hint", "", "tells a workload's identities apart")
	flags.StringArrayVar(&f.dnsNames, "dns-name", nil, "name in the certificate besides the SPIFFE ID; repeat")
	flags.StringArrayVar(&f.gateway, "gateway", nil, "service whose policies this workload may read; repeat")
}

// changes gives the fields whose flags were given, by their JSON names.
func (f *specFlags) changes(flags *pflag.FlagSet) map[string]any {
	all := map[string]any{
		"spiffe-id": f.spiffeID, "parent-id": f.parentID, "selector": f.selectors, "ttl": identity.Duration(f.ttl),
		"jwt-ttl": identity.Duration(f.jwtTTL), "renew-at": f.renewAt, "profile": f.profile, "hint": f.hint,
		"dns-name": f.dnsNames, "gateway": f.gateway,
	}
	fields := map[string]string{"selector": "selectors", "dns-name": "dns_names"}
	given := map[string]any{}
	flags.Visit(func(flag *pflag.Flag) {
		value, ok := all[flag.Name]
		if !ok {
			return
		}
		field := fields[flag.Name]
		if field == "" {
			field = strings.ReplaceAll(flag.Name, "-", "_")
		}
		given[field] = value
	})
	return given
}

// spec gives a whole Spec. The parent defaults to the agent of an 'icp dev'.
func (f *specFlags) spec(cmd *cobra.Command, defaultParent string) (identity.Spec, error) {
	spec := identity.Spec{
		TTL: identity.Duration(f.ttl), JWTTTL: identity.Duration(f.jwtTTL), RenewAt: f.renewAt,
		Profile: f.profile, Hint: f.hint, DNSNames: f.dnsNames, Gateway: f.gateway,
	}
	parent := f.parentID
	if parent == "" {
		parent = defaultParent
	}
	if f.spiffeID == "" || len(f.selectors) == 0 {
		return spec, usage(cmd, "--spiffe-id and at least one --selector are needed")
	}
	var err error
	if spec.SPIFFEID, err = identity.ParseWorkloadID(f.spiffeID); err != nil {
		return spec, err
	}
	if parent != "" {
		if spec.ParentID, err = identity.ParseWorkloadID(parent); err != nil {
			return spec, err
		}
	}
	spec.Selectors, err = parseSelectors(f.selectors)
	return spec, err
}

func parseSelectors(texts []string) (identity.Selectors, error) {
	list := make([]identity.Selector, 0, len(texts))
	for _, text := range texts {
		s, err := identity.ParseSelector(text)
		if err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return identity.NewSelectors(list...), nil
}

func entryCreate(a *app) *cobra.Command {
	var f specFlags
	cmd := &cobra.Command{
		Use: "create", Short: "Register a workload", Args: takes(0, 0),
		Example: `  icp entry create --spiffe-id spiffe://example.org/billing/api \
      --parent-id spiffe://example.org/agent/node-1 --selector unix:uid:1000 --selector unix:path:/usr/bin/billing`,
		RunE: a.run(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			info, err := a.dev()
			if err != nil {
				return err
			}
			spec, err := f.spec(cmd, info.AgentID)
			if err != nil {
				return err
			}
			e, err := c.CreateEntry(cmd.Context(), spec)
			if err != nil {
				return err
			}
			return a.showEntry(cmd, e)
		}),
	}
	f.add(cmd.Flags())
	return cmd
}

func entryList(a *app) *cobra.Command {
	var f client.EntryFilter
	cmd := &cobra.Command{
		Use: "list", Short: "List registered workloads, oldest first", Args: takes(0, 0),
		Example: "  icp entry list\n  icp entry list --selector unix:uid:1000 --output json",
		RunE: a.run(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			entries, err := c.Entries(cmd.Context(), f)
			if err != nil {
				return err
			}
			t := table{header: []string{"ID", "SPIFFE ID", "PARENT", "SELECTORS", "TTL"}}
			for _, e := range entries {
				t.add(e.ID, e.SPIFFEID.String(), e.ParentID.String(), joined(e.Selectors), durationText(time.Duration(e.TTL)))
			}
			return a.list(cmd, entries, "entries", t)
		}),
	}
	cmd.Flags().StringVar(&f.SPIFFEID, "spiffe-id", "", "only this identity")
	cmd.Flags().StringVar(&f.ParentID, "parent-id", "", "only of this agent")
	cmd.Flags().StringVar(&f.Selector, "selector", "", "only with this selector")
	cmd.Flags().StringVar(&f.Search, "search", "", "only with this text in the SPIFFE ID")
	cmd.Flags().IntVar(&f.Limit, "limit", 0, "at most so many (default: all)")
	return cmd
}

func entryShow(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "show ID|SPIFFE-ID", Short: "Show one registered workload", Args: takes(1, 1),
		Example: "  icp entry show spiffe://example.org/billing/api",
		RunE: a.run(func(cmd *cobra.Command, c *client.Client, args []string) error {
			e, err := findEntry(cmd, c, args[0])
			if err != nil {
				return err
			}
			return a.showEntry(cmd, e)
		}),
	}
}

// findEntry finds an entry by its id, or by a SPIFFE ID that only one has.
func findEntry(cmd *cobra.Command, c *client.Client, name string) (identity.Entry, error) {
	if !strings.HasPrefix(name, "spiffe:") {
		return c.Entry(cmd.Context(), name)
	}
	entries, err := c.Entries(cmd.Context(), client.EntryFilter{SPIFFEID: name})
	switch {
	case err != nil:
		return identity.Entry{}, err
	case len(entries) == 0:
		return identity.Entry{}, identity.Errorf(identity.NotFound, "no entry gives %s; 'icp entry list' shows all", name)
	case len(entries) > 1:
		return identity.Entry{}, identity.Errorf(identity.Conflict, "%d entries give %s; name one by its id, see 'icp entry list --spiffe-id %s'", len(entries), name, name)
	}
	return entries[0], nil
}

func (a *app) showEntry(cmd *cobra.Command, e identity.Entry) error {
	renewAt := ""
	if e.RenewAt != 0 {
		renewAt = fmt.Sprint(e.RenewAt)
	}
	return a.show(cmd, e,
		[2]string{"id", e.ID}, [2]string{"spiffe_id", e.SPIFFEID.String()}, [2]string{"parent_id", e.ParentID.String()},
		[2]string{"selectors", joined(e.Selectors)}, [2]string{"ttl", durationText(time.Duration(e.TTL))},
		[2]string{"jwt_ttl", durationText(time.Duration(e.JWTTTL))}, [2]string{"renew_at", renewAt},
		[2]string{"profile", e.Profile}, [2]string{"hint", e.Hint}, [2]string{"dns_names", joined(e.DNSNames)},
		[2]string{"gateway", joined(e.Gateway)}, [2]string{"created_at", timeText(e.CreatedAt)},
		[2]string{"revision", fmt.Sprint(e.Revision)})
}

func entryUpdate(a *app) *cobra.Command {
	var f specFlags
	cmd := &cobra.Command{
		Use: "update ID|SPIFFE-ID", Short: "Change the given fields of a registered workload", Args: takes(1, 1),
		Example: "  icp entry update spiffe://example.org/billing/api --ttl 30m",
		RunE: a.run(func(cmd *cobra.Command, c *client.Client, args []string) error {
			changes := f.changes(cmd.Flags())
			if len(changes) == 0 {
				return usage(cmd, "nothing to change: give at least one field")
			}
			e, err := findEntry(cmd, c, args[0])
			if err != nil {
				return err
			}
			if e, err = c.PatchEntry(cmd.Context(), e.ID, changes); err != nil {
				return err
			}
			return a.showEntry(cmd, e)
		}),
	}
	f.add(cmd.Flags())
	return cmd
}

func entryDelete(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "delete ID|SPIFFE-ID...", Short: "Remove workloads and revoke what was issued for them", Args: takes(1, -1),
		Example: "  icp entry delete spiffe://example.org/billing/api",
		RunE: a.run(func(cmd *cobra.Command, c *client.Client, args []string) error {
			for _, name := range args {
				e, err := findEntry(cmd, c, name)
				if err != nil {
					return err
				}
				if err := c.DeleteEntry(cmd.Context(), e.ID); err != nil {
					return err
				}
				a.note(cmd, "deleted entry %s (%s)", e.ID, e.SPIFFEID)
			}
			return nil
		}),
	}
}
