package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/authsec-ai/icp/cmd/icp/internal/client"
	"github.com/authsec-ai/icp/identity"
)

// app is what all commands share: the global flags and where they fall back to.
type app struct {
	getenv func(string) string
	output format

	url, tokenFile, caFile string
	tenant                 string
	dir                    string
}

func (a *app) addFlags(flags *pflag.FlagSet) {
	flags.StringVar(&a.url, "url", "", "the server, as https://host:port (ICP_URL)")
	flags.StringVar(&a.tokenFile, "token-file", "", "file with the API token (ICP_TOKEN_FILE)")
	flags.StringVar(&a.caFile, "ca-file", "", "PEM of the server's certificate authority; the system's if unset (ICP_CA_FILE)")
	flags.StringVar(&a.tenant, "tenant", "", "tenant to act on, for platform administrators (ICP_TENANT)")
	flags.StringVar(&a.dir, "dir", "", "folder of a running 'icp dev', for all of these")
	flags.VarP(&a.output, "output", "o", "how to print results")
}

// devInfo is the part of dev.json that commands need.
type devInfo struct {
	ServerURL      string `json:"server_url"`
	ServerCAFile   string `json:"server_ca_file"`
	AdminTokenFile string `json:"admin_token_file"`
	TrustDomain    string `json:"trust_domain"`
	AgentID        string `json:"agent_id"`
	AgentSocket    string `json:"agent_socket"`
}

// dev reads dev.json of --dir; without --dir it gives nothing.
func (a *app) dev() (devInfo, error) {
	var info devInfo
	if a.dir == "" {
		return info, nil
	}
	raw, err := os.ReadFile(filepath.Join(a.dir, "dev.json"))
	if err != nil {
		return info, identity.Errorf(identity.Unavailable, "no 'icp dev' is ready on %s (%s); start it with: icp dev --dir %s", a.dir, reason(err), a.dir)
	}
	if err := json.Unmarshal(raw, &info); err != nil {
		return info, fmt.Errorf("%s: %w", filepath.Join(a.dir, "dev.json"), err)
	}
	return info, nil
}

// setting gives the first that is set: the flag, what --dir says, the variable.
func (a *app) setting(flag, fromDir, variable string) string {
	for _, value := range []string{flag, fromDir, a.getenv(variable)} {
		if value != "" {
			return value
		}
	}
	return ""
}

// connect makes a client from the global flags. Without the need of a token it
// sends none.
func (a *app) connect(cmd *cobra.Command, needsToken bool) (*client.Client, error) {
	info, err := a.dev()
	if err != nil {
		return nil, err
	}
	cfg := client.Config{
		URL:    a.setting(a.url, info.ServerURL, "ICP_URL"),
		Tenant: a.setting(a.tenant, "", "ICP_TENANT"),
	}
	if cfg.URL == "" {
		return nil, usage(cmd, "no server is named: give --url, --dir or ICP_URL")
	}
	if needsToken {
		if cfg.Token, err = a.token(cmd, info); err != nil {
			return nil, err
		}
	}
	if caFile := a.setting(a.caFile, info.ServerCAFile, "ICP_CA_FILE"); caFile != "" {
		if cfg.CAs, err = os.ReadFile(caFile); err != nil {
			return nil, fmt.Errorf("CA file %s: %s", caFile, reason(err))
		}
	}
	return client.New(cfg)
}

func (a *app) token(cmd *cobra.Command, info devInfo) (string, error) {
	file := a.setting(a.tokenFile, info.AdminTokenFile, "ICP_TOKEN_FILE")
	if file == "" {
		return "", usage(cmd, "no API token is named: give --token-file, --dir or ICP_TOKEN_FILE")
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("API token file %s: %s", file, reason(err))
	}
	return strings.TrimSpace(string(text)), nil
}

// serverTask is what a command does with the server.
type serverTask func(cmd *cobra.Command, c *client.Client, args []string) error

// run makes a command's function of a task that needs a token.
func (a *app) run(do serverTask) func(*cobra.Command, []string) error { return a.with(true, do) }

// runPublic is run for a task that anybody may do.
func (a *app) runPublic(do serverTask) func(*cobra.Command, []string) error { return a.with(false, do) }

func (a *app) with(needsToken bool, do serverTask) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c, err := a.connect(cmd, needsToken)
		if err != nil {
			return err
		}
		defer c.Close()
		return do(cmd, c, args)
	}
}

// reason is a file error without the path, which the message names already.
func reason(err error) string {
	if pathErr, ok := err.(*os.PathError); ok {
		return pathErr.Err.Error()
	}
	return err.Error()
}
