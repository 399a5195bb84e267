package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/authsec-ai/icp/cmd/icp/internal/client"
	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/policy"
)

const manifestExample = `  # workloads.yaml
  entries:
    - spiffe_id: spiffe://example.org/billing/api
      parent_id: spiffe://example.org/agent/node-1
      selectors: ["unix:uid:1000"]
      ttl: 30m
  policies:
    - name: billing-reads-orders
      effect: allow
      subjects: [spiffe://example.org/billing/api]
      service: orders
      methods: [GET]
      paths: [/v1/orders/**]`

// applyOptions say how a manifest is brought about.
type applyOptions struct {
	prune  bool // remove what is not in it
	dryRun bool // only say what would change
}

func applyCommand(a *app) *cobra.Command {
	var files []string
	var opts applyOptions
	cmd := &cobra.Command{
		Use: "apply -f FILE", Short: "Make entries and policies equal to a file", Args: takes(0, 0),
		Long:    "Create and change entries and policies so that they are as in a file. Applying it again changes nothing.\nAn entry is known by its SPIFFE ID, parent and selectors; if only the selectors differ, it is changed.",
		Example: manifestExample + "\n\n  icp apply -f workloads.yaml\n  icp apply -f workloads.yaml --prune --dry-run",
		RunE: a.run(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			_, err := a.applyFiles(cmd, c, files, opts)
			return err
		}),
	}
	addManifestFlags(cmd, &files, &opts)
	cmd.Flags().BoolVar(&opts.dryRun, "dry-run", false, "say what would change, and change nothing")
	return cmd
}

func diffCommand(a *app) *cobra.Command {
	var files []string
	opts := applyOptions{dryRun: true}
	cmd := &cobra.Command{
		Use: "diff -f FILE", Short: "Say what 'icp apply' would change", Args: takes(0, 0),
		Long:    "Say what 'icp apply' would change, and change nothing. Exit code 0 if that is nothing, 10 if there is something.",
		Example: "  icp diff -f workloads.yaml --prune",
		RunE: a.run(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			changes, err := a.applyFiles(cmd, c, files, opts)
			if err == nil && changes > 0 {
				err = exitWith(exitDiffers)
			}
			return err
		}),
	}
	addManifestFlags(cmd, &files, &opts)
	return cmd
}

func addManifestFlags(cmd *cobra.Command, files *[]string, opts *applyOptions) {
	cmd.Flags().StringArrayVarP(files, "file", "f", nil, "YAML or JSON; - for standard input; repeat")
	cmd.Flags().BoolVar(&opts.prune, "prune", false, "also remove what is not in the files, of each kind that they list")
}

func exportCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "export", Short: "Print all entries and policies as a file for 'icp apply'", Args: takes(0, 0),
		Example: "  icp export > workloads.yaml",
		RunE: a.run(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			entries, err := c.Entries(cmd.Context(), client.EntryFilter{})
			if err != nil {
				return err
			}
			m := manifest{Entries: []identity.Spec{}}
			for _, e := range entries {
				m.Entries = append(m.Entries, e.Spec)
			}
			if m.Policies, err = c.Policies(cmd.Context()); err != nil {
				return err
			}
			return a.write(cmd, m)
		}),
	}
}

// applyFiles gives how many changes there were.
func (a *app) applyFiles(cmd *cobra.Command, c *client.Client, files []string, opts applyOptions) (int, error) {
	if len(files) == 0 {
		return 0, usage(cmd, "name a file with -f, or - for standard input")
	}
	info, err := a.dev()
	if err != nil {
		return 0, err
	}
	m, err := readManifest(cmd, files, info.AgentID)
	if err != nil {
		return 0, err
	}
	return a.apply(cmd, c, m, opts)
}

// change is one step of an apply.
type change struct {
	Action string `json:"action"` // "create", "update" or "delete"
	Kind   string `json:"kind"`   // "entry" or "policy"
	Name   string `json:"name"`
	ID     string `json:"id,omitempty"` // of an entry that exists

	do func(context.Context) error
}

// plan is what an apply does.
type plan struct {
	Changes   []change `json:"changes"`
	Unchanged int      `json:"unchanged"`
	DryRun    bool     `json:"dry_run"`
}

// apply finds the changes, makes them in order, and reports those it made.
func (a *app) apply(cmd *cobra.Command, c *client.Client, m manifest, opts applyOptions) (changes int, err error) {
	p, err := makePlan(cmd.Context(), c, m, opts)
	if err != nil {
		return 0, err
	}
	if !opts.dryRun {
		err = p.carryOut(cmd.Context())
	}
	return len(p.Changes), errors.Join(a.showPlan(cmd, p), err)
}

// carryOut makes the changes; after a failure the plan holds those made.
func (p *plan) carryOut(ctx context.Context) error {
	for i, ch := range p.Changes {
		if err := ch.do(ctx); err != nil {
			total := len(p.Changes)
			p.Changes = p.Changes[:i]
			return fmt.Errorf("%s %s %s: %w (%d of %d changes were made)", ch.Action, ch.Kind, ch.Name, err, i, total)
		}
	}
	return nil
}

func (a *app) showPlan(cmd *cobra.Command, p plan) error {
	if a.output == asJSON {
		return writeJSON(cmd.OutOrStdout(), p)
	}
	for _, ch := range p.Changes {
		fmt.Fprintln(cmd.OutOrStdout(), safe(fmt.Sprintf("%s %s %s", ch.Action, ch.Kind, ch.Name)))
	}
	what := "changes"
	if len(p.Changes) == 1 {
		what = "change"
	}
	if p.DryRun {
		what += " to make"
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "%d %s (%d unchanged)\n", len(p.Changes), what, p.Unchanged)
	return err
}

func makePlan(ctx context.Context, c *client.Client, m manifest, opts applyOptions) (plan, error) {
	p := plan{Changes: []change{}, DryRun: opts.dryRun}
	if m.Entries != nil {
		existing, err := c.Entries(ctx, client.EntryFilter{})
		if err != nil {
			return p, err
		}
		if err := p.planEntries(c, m.Entries, existing, opts.prune); err != nil {
			return p, err
		}
	}
	if m.Policies != nil {
		existing, err := c.Policies(ctx)
		if err != nil {
			return p, err
		}
		return p, p.planPolicies(c, m.Policies, existing, opts.prune)
	}
	return p, nil
}

func (p *plan) planEntries(c *client.Client, wanted []identity.Spec, existing []identity.Entry, prune bool) error {
	pairs, rest := matchEntries(wanted, existing)
	for i, spec := range wanted {
		old, found := pairs[i]
		if !found {
			p.add("create", "entry", spec.SPIFFEID.String(), "", func(ctx context.Context) error {
				_, err := c.CreateEntry(ctx, spec)
				return err
			})
			continue
		}
		same, err := equal(spec, old.Spec)
		if err != nil {
			return err
		}
		if same {
			p.Unchanged++
			continue
		}
		p.add("update", "entry", spec.SPIFFEID.String(), old.ID, func(ctx context.Context) error {
			_, err := c.ReplaceEntry(ctx, old, spec)
			return err
		})
	}
	for _, old := range rest {
		if prune {
			p.add("delete", "entry", old.SPIFFEID.String(), old.ID, func(ctx context.Context) error { return c.DeleteEntry(ctx, old.ID) })
		}
	}
	return nil
}

// matchEntries pairs each wanted entry with the one that exists: first those
// with the same key, then, where it is clear which, those that differ in their
// selectors. It gives the pairs by place in wanted, and what is left.
func matchEntries(wanted []identity.Spec, existing []identity.Entry) (map[int]identity.Entry, []identity.Entry) {
	pairs := map[int]identity.Entry{}
	rest := pair(wanted, existing, pairs, entryKey)
	return pairs, pair(wanted, rest, pairs, func(s identity.Spec) string { return s.SPIFFEID.String() + " " + s.ParentID.String() })
}

// pair adds those of wanted and existing that alone on either side have a key,
// and gives what is left of existing.
func pair(wanted []identity.Spec, existing []identity.Entry, pairs map[int]identity.Entry, key func(identity.Spec) string) []identity.Entry {
	places, entries := map[string][]int{}, map[string][]identity.Entry{}
	for i, spec := range wanted {
		if _, done := pairs[i]; !done {
			places[key(spec)] = append(places[key(spec)], i)
		}
	}
	for _, e := range existing {
		entries[key(e.Spec)] = append(entries[key(e.Spec)], e)
	}
	var rest []identity.Entry
	for _, e := range existing {
		k := key(e.Spec)
		if len(places[k]) == 1 && len(entries[k]) == 1 {
			pairs[places[k][0]] = e
		} else {
			rest = append(rest, e)
		}
	}
	return rest
}

func (p *plan) planPolicies(c *client.Client, wanted, existing []policy.Policy, prune bool) error {
	old := map[string]policy.Policy{}
	for _, e := range existing {
		old[e.Name] = e
	}
	for _, w := range wanted {
		action := "create"
		if e, found := old[w.Name]; found {
			same, err := equal(w, e)
			if err != nil {
				return err
			}
			delete(old, w.Name)
			if same {
				p.Unchanged++
				continue
			}
			action = "update"
		}
		p.add(action, "policy", w.Name, "", func(ctx context.Context) error { return c.PutPolicy(ctx, w) })
	}
	for _, e := range existing {
		if _, left := old[e.Name]; left && prune {
			p.add("delete", "policy", e.Name, "", func(ctx context.Context) error { return c.DeletePolicy(ctx, e.Name) })
		}
	}
	return nil
}

func (p *plan) add(action, kind, name, id string, do func(context.Context) error) {
	p.Changes = append(p.Changes, change{Action: action, Kind: kind, Name: name, ID: id, do: do})
}

// equal compares what would be sent.
func equal(a, b any) (bool, error) {
	x, err := json.Marshal(a)
	if err != nil {
		return false, err
	}
	y, err := json.Marshal(b)
	return bytes.Equal(x, y), err
}
