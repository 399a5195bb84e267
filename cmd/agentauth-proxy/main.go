// Command agentauth-proxy ends mutual TLS in front of APIs and LLM endpoints
// and lets through what policy allows to the SPIFFE ID that calls.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/authsec-ai/icp/internal/config"
	"github.com/authsec-ai/icp/internal/telemetry"
	"github.com/authsec-ai/icp/proxy"
)

// version is set by the build: -ldflags "-X main.version=v1.2.3".
var version = "development"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	err := command().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "agentauth-proxy:", strings.Join(strings.Fields(err.Error()), " ")) // one line
		os.Exit(1)
	}
}

func command() *cobra.Command {
	var configFile string
	root := &cobra.Command{
		Use:           "agentauth-proxy",
		Short:         "Mutual TLS and SPIFFE-ID authorization in front of APIs and LLM endpoints",
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), configFile) },
	}
	root.Flags().StringVar(&configFile, "config", "", "configuration file (YAML); "+proxy.EnvPrefix+"* variables override it")
	root.AddCommand(&cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		Run:   func(cmd *cobra.Command, _ []string) { fmt.Fprintln(cmd.OutOrStdout(), version) },
	})
	return root
}

// run serves until ctx ends, then drains.
func run(ctx context.Context, configFile string) error {
	settings := proxy.Defaults()
	if err := config.Load(configFile, proxy.EnvPrefix, os.Environ(), &settings); err != nil {
		return err
	}
	tel, err := telemetry.New("agentauth-proxy", os.Stderr, slog.LevelInfo)
	if err != nil {
		return err
	}
	defer tel.Close(context.WithoutCancel(ctx))
	p, err := proxy.New(settings, proxy.Deps{Telemetry: tel, Now: time.Now, Stdout: os.Stdout})
	if err != nil {
		return err
	}
	addrs, err := p.Listen()
	if err != nil {
		return err
	}
	tel.Log.Info("listening", "callers", addrs.Proxy.String(), "metrics", fmt.Sprint(addrs.Metrics))
	return p.Run(ctx)
}
