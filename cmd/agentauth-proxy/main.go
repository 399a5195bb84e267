// Command agentauth-proxy ends mutual TLS in front of APIs and LLM endpoints
// and lets through what policy allows to the SPIFFE ID that calls.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/authsec-ai/icp/cmd/internal/program"
	"github.com/authsec-ai/icp/internal/config"
	"github.com/authsec-ai/icp/internal/telemetry"
	"github.com/authsec-ai/icp/proxy"
)

const usage = `agentauth-proxy: mutual TLS and SPIFFE-ID authorization in front of APIs and LLMs

  agentauth-proxy [--config FILE] [--log-level LEVEL]
  agentauth-proxy --version

Every key of the file can be set by the environment instead: policies.server is
ICP_PROXY_POLICIES__SERVER.
`

func main() { os.Exit(program.Main("agentauth-proxy", run)) }

func run(ctx context.Context) error {
	flags, err := program.ParseFlags("agentauth-proxy", usage, os.Args[1:])
	if err != nil || flags.Done {
		return err
	}
	settings := proxy.Defaults()
	if err := config.Load(flags.Config, proxy.EnvPrefix, os.Environ(), &settings); err != nil {
		return err
	}
	tel, err := telemetry.New("agentauth-proxy", os.Stderr, flags.LogLevel)
	if err != nil {
		return err
	}
	defer func() { _ = tel.Close(context.Background()) }() // metrics of a program that ends
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
