// Command icp-server is the control plane: certificate authority, registry,
// node attestation and API behind one TLS port.
package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/authsec-ai/icp/cmd/internal/controlplane"
	"github.com/authsec-ai/icp/cmd/internal/program"
	"github.com/authsec-ai/icp/internal/config"
	"github.com/authsec-ai/icp/internal/telemetry"
	"github.com/authsec-ai/icp/server/store"
)

const usage = `icp-server: the control plane of ICP

  icp-server [--config FILE] [--log-level LEVEL]
  icp-server --version

At its first start it writes a platform admin's API token to admin.token in its
data folder. Every key of the file can be set by the environment instead:
store.postgres is ICP_SERVER_STORE__POSTGRES.
`

func main() { os.Exit(program.Main("icp-server", run)) }

func run(ctx context.Context) error {
	flags, err := program.ParseFlags("icp-server", usage, os.Args[1:])
	if err != nil || flags.Done {
		return err
	}
	cfg := controlplane.Defaults()
	if err := config.Load(flags.Config, "ICP_SERVER_", os.Environ(), &cfg); err != nil {
		return err
	}
	tel, err := telemetry.New("icp-server", os.Stderr, flags.LogLevel)
	if err != nil {
		return err
	}
	defer func() { _ = tel.Close(context.Background()) }() // metrics of a program that ends
	return serve(ctx, cfg, tel)
}

func serve(ctx context.Context, cfg controlplane.Config, tel *telemetry.Telemetry) (err error) {
	health, err := program.ListenLoopback("health_listen", cfg.HealthListen)
	if err != nil {
		return err
	}
	defer health.Close()
	control, err := controlplane.Open(ctx, cfg, tel)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, control.Close()) }()
	addr, err := control.Listen()
	if err != nil {
		return err
	}
	if _, err := control.AdminToken(ctx, filepath.Join(cfg.DataDir, "admin.token"), "", store.PlatformAdmin); err != nil {
		return err
	}
	tel.Log.Info("serving", "address", addr.String(), "ca_file", control.CAFile)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return control.Run(ctx) })
	group.Go(func() error { return program.ServeHTTP(ctx, health, tel.Handler()) })
	return group.Wait()
}
