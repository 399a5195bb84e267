// Command icp-agent runs once per node: it attests the node and its workloads,
// and serves the SPIFFE Workload API and Envoy SDS on one unix socket.
package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"os"

	"github.com/authsec-ai/icp/agent"
	"github.com/authsec-ai/icp/cmd/internal/attestors"
	"github.com/authsec-ai/icp/cmd/internal/program"
	"github.com/authsec-ai/icp/internal/config"
	"github.com/authsec-ai/icp/internal/telemetry"
)

const usage = `icp-agent: identities for the workloads of this node

  icp-agent [--config FILE] [--log-level LEVEL]
  icp-agent --version

The first start needs a join token: 'icp token create' makes one. Every key of
the file can be set by the environment instead: server.url is
ICP_AGENT_SERVER__URL.
`

// settings are the agent's configuration, as its YAML file has it.
type settings struct {
	SocketPath  string `yaml:"socket_path"`
	DataDir     string `yaml:"data_dir"`
	AdminListen string `yaml:"admin_listen"` // health, metrics and debugging; loopback only
	NodeName    string `yaml:"node_name"`
	Server      struct {
		URL    string `yaml:"url"`     // https://host:port
		CAFile string `yaml:"ca_file"` // PEM that vouches for it; empty means the system's roots
	} `yaml:"server"`
	JoinToken     string `yaml:"join_token"`
	JoinTokenFile string `yaml:"join_token_file"`
	KeyFile       string `yaml:"key_file"` // seals the saved identity; empty means a file in data_dir
}

func defaults() settings {
	return settings{
		SocketPath: "/run/spire/sockets/agent.sock", DataDir: "/var/lib/icp-agent", AdminListen: "127.0.0.1:8082",
	}
}

func main() { os.Exit(program.Main("icp-agent", run)) }

func run(ctx context.Context) error {
	flags, err := program.ParseFlags("icp-agent", usage, os.Args[1:])
	if err != nil || flags.Done {
		return err
	}
	s := defaults()
	if err := config.Load(flags.Config, "ICP_AGENT_", os.Environ(), &s); err != nil {
		return err
	}
	tel, err := telemetry.New("icp-agent", os.Stderr, flags.LogLevel)
	if err != nil {
		return err
	}
	defer func() { _ = tel.Close(context.Background()) }() // metrics of a program that ends
	return serve(ctx, s, tel)
}

func serve(ctx context.Context, s settings, tel *telemetry.Telemetry) error {
	roots, err := loadRoots(s.Server.CAFile)
	if err != nil {
		return err
	}
	a, err := agent.New(agent.Config{
		SocketPath: s.SocketPath, DataDir: s.DataDir, ServerURL: s.Server.URL, ServerRoots: roots,
		Attestors: attestors.All(), Telemetry: tel, AdminAddress: s.AdminListen,
		JoinToken: s.JoinToken, JoinTokenFile: s.JoinTokenFile, NodeName: s.NodeName, KeyFile: s.KeyFile,
	})
	if err != nil {
		return err
	}
	return a.Run(ctx)
}

// loadRoots reads a PEM file of certificates; no path means the system's.
func loadRoots(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("server.ca_file: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(raw) {
		return nil, fmt.Errorf("server.ca_file: %s holds no PEM certificate", path)
	}
	return pool, nil
}
