package cli

import (
	"bytes"
	"crypto/sha256"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/authsec-ai/icp/cmd/icp/internal/client"
	"github.com/authsec-ai/icp/identity"
)

func bundleCommand(a *app) *cobra.Command {
	return group("bundle", "Trust bundles: what others verify our identities with", bundleShow(a), bundleExport(a))
}

// fetchBundle gets the bundle of the trust domain in args, or of the 'icp dev'.
func (a *app) fetchBundle(cmd *cobra.Command, c *client.Client, args []string) (*spiffebundle.Bundle, []byte, error) {
	info, err := a.dev()
	if err != nil {
		return nil, nil, err
	}
	name := info.TrustDomain
	if len(args) > 0 {
		name = args[0]
	}
	if name == "" {
		return nil, nil, usage(cmd, "name the trust domain: %s", cmd.UseLine())
	}
	td, err := identity.ParseTrustDomain(name)
	if err != nil {
		return nil, nil, err
	}
	raw, err := c.Bundle(cmd.Context(), td.Name())
	if err != nil {
		return nil, nil, err
	}
	b, err := parseBundle(td, raw)
	return b, raw, err
}

func parseBundle(td spiffeid.TrustDomain, raw []byte) (*spiffebundle.Bundle, error) {
	b, err := spiffebundle.Parse(td, raw)
	if err != nil {
		return nil, fmt.Errorf("the server's bundle of %s: %w", td, err)
	}
	return b, nil
}

func bundleShow(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "show [TRUST-DOMAIN]", Short: "Show the authorities in a trust bundle", Args: takes(0, 1),
		Example: "  icp bundle show example.org",
		RunE: a.runPublic(func(cmd *cobra.Command, c *client.Client, args []string) error {
			b, raw, err := a.fetchBundle(cmd, c, args)
			if err != nil {
				return err
			}
			if a.output == asJSON {
				return writeRaw(cmd, raw)
			}
			t := table{header: []string{"USE", "ID", "EXPIRES"}}
			for _, cert := range b.X509Authorities() {
				t.add("x509", fmt.Sprintf("sha256:%x", sha256.Sum256(cert.Raw)), timeText(cert.NotAfter))
			}
			kids := make([]string, 0, len(b.JWTAuthorities()))
			for kid := range b.JWTAuthorities() {
				kids = append(kids, kid)
			}
			slices.Sort(kids)
			for _, kid := range kids {
				t.add("jwt", kid, "")
			}
			return a.list(cmd, nil, "authorities", t)
		}),
	}
}

func bundleExport(a *app) *cobra.Command {
	var form string
	cmd := &cobra.Command{
		Use: "export [TRUST-DOMAIN]", Short: "Print a trust bundle, for other programs to verify with", Args: takes(0, 1),
		Example: "  icp bundle export example.org > bundle.json\n  icp bundle export example.org --format pem > anchors.pem",
		RunE: a.runPublic(func(cmd *cobra.Command, c *client.Client, args []string) error {
			if form != "spiffe" && form != "pem" {
				return usage(cmd, "--format is spiffe or pem")
			}
			b, raw, err := a.fetchBundle(cmd, c, args)
			if err != nil {
				return err
			}
			if form == "spiffe" {
				return writeRaw(cmd, raw)
			}
			return writeAnchors(cmd, b)
		}),
	}
	cmd.Flags().StringVar(&form, "format", "spiffe", "spiffe (the SPIFFE bundle document) or pem (X.509 anchors only)")
	return cmd
}

func writeRaw(cmd *cobra.Command, raw []byte) error {
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s\n", bytes.TrimSpace(raw))
	return err
}

func writeAnchors(cmd *cobra.Command, b *spiffebundle.Bundle) error {
	if len(b.X509Authorities()) == 0 {
		return errors.New("the bundle has no X.509 authorities")
	}
	for _, cert := range b.X509Authorities() {
		if err := pem.Encode(cmd.OutOrStdout(), &pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}); err != nil {
			return err
		}
	}
	return nil
}
