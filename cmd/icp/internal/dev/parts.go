package dev

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/authsec-ai/icp/agent"
	"github.com/authsec-ai/icp/cmd/internal/attestors"
	"github.com/authsec-ai/icp/cmd/internal/controlplane"
	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/sampleupstream"
	"github.com/authsec-ai/icp/policy"
	"github.com/authsec-ai/icp/proxy"
	"github.com/authsec-ai/icp/proxy/credential"
	"github.com/authsec-ai/icp/proxy/upstream"
	"github.com/authsec-ai/icp/server/registry"
	"github.com/authsec-ai/icp/server/store"
)

func (p *parts) openServer(ctx context.Context) error {
	tel, err := p.newTelemetry("icp-server")
	if err != nil {
		return err
	}
	cfg := controlplane.Defaults()
	cfg.Listen, cfg.DataDir = p.ports.Server, p.dir.path
	cfg.Store.PollInterval = p.opts.PollInterval
	if p.control, err = controlplane.Open(ctx, cfg, tel); err != nil {
		return err
	}
	addr, err := p.control.Listen()
	if err != nil {
		return p.explainPort("server", p.ports.Server, err)
	}
	p.ports.Server = addr.String()
	p.info = Info{
		ServerURL: "https://" + p.ports.Server, ServerCAFile: p.control.CAFile, AdminTokenFile: p.dir.file("admin.token"),
		Tenant: tenant, TrustDomain: trustDomain, AgentID: agentID, AgentSocket: "unix://" + p.dir.file("agent.sock"), PID: os.Getpid(),
	}
	if err := p.seed(ctx); err != nil {
		return fmt.Errorf("set up tenant %s: %w", tenant, err)
	}
	_, err = p.control.AdminToken(ctx, p.info.AdminTokenFile, tenant, store.TenantAdmin)
	return err
}

// seed writes the tenant and its samples at the first start, and on every start
// what must fit this very process. What an administrator changed stays changed.
func (p *parts) seed(ctx context.Context) error {
	if _, err := os.Stat(p.dir.file(seededName)); errors.Is(err, os.ErrNotExist) {
		if err := p.seedTenant(ctx); err != nil {
			return err
		}
		if err := p.dir.replace(seededName, nil, 0o600); err != nil {
			return err
		}
	}
	return p.seedProxyEntry(ctx)
}

// seededName is a file that says that the first start got to the end of
// seedTenant. Until then each start does what is left of it.
const seededName = "seeded"

func (p *parts) seedTenant(ctx context.Context) error {
	reg, by := p.control.Registry, registry.System()
	_, err := reg.CreateTenant(ctx, by, tenant, trustDomain, store.Settings{})
	if err := unlessThere(err); err != nil {
		return err
	}
	uid := strconv.Itoa(os.Getuid())
	_, err = reg.CreateEntry(ctx, by, tenant, identity.Spec{
		SPIFFEID: mustID(devID), ParentID: mustID(agentID),
		Selectors: identity.NewSelectors(identity.Selector{Type: "unix", Value: "uid:" + uid}),
	})
	if err := unlessThere(err); err != nil {
		return err
	}
	for _, sample := range samplePolicies() {
		if err := unlessThere(reg.CreatePolicy(ctx, by, tenant, sample)); err != nil {
			return err
		}
	}
	return nil
}

// unlessThere passes over a Conflict.
func unlessThere(err error) error {
	if identity.CodeOf(err) == identity.Conflict {
		return nil
	}
	return err
}

func samplePolicies() []policy.Policy {
	return []policy.Policy{
		{Name: "dev-echo", Effect: policy.Allow, Subjects: []string{devID}, Service: "echo",
			Methods: []string{"GET", "POST"}, Paths: []string{"/echo"}},
		{Name: "dev-llm", Effect: policy.Allow, Subjects: []string{devID}, Service: "llm",
			Methods: []string{"POST"}, Paths: []string{"/v1/chat/completions"}, Models: []string{"sample-llm"}},
	}
}

// seedProxyEntry registers the proxy by this process's user and program. The
// program may have moved since the last start.
func (p *parts) seedProxyEntry(ctx context.Context) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	spec := identity.Spec{
		SPIFFEID: mustID(proxyID), ParentID: mustID(agentID), Gateway: []string{"llm", "echo"},
		Selectors: identity.NewSelectors(
			identity.Selector{Type: "unix", Value: "uid:" + strconv.Itoa(os.Getuid())},
			identity.Selector{Type: "unix", Value: "path:" + program}),
	}
	old, _, err := p.control.Registry.Entries(ctx, tenant, store.EntryFilter{SPIFFEID: proxyID})
	switch {
	case err != nil:
		return err
	case len(old) == 0:
		_, err = p.control.Registry.CreateEntry(ctx, registry.System(), tenant, spec)
	case !old[0].Selectors.Contains(spec.Selectors):
		_, err = p.control.Registry.UpdateEntry(ctx, registry.System(), tenant, old[0].ID, 0, spec)
	}
	return err
}

func (p *parts) openUpstream() error {
	l, err := p.listen("sample upstream", p.ports.Upstream)
	if err != nil {
		return err
	}
	p.ports.Upstream = l.Addr().String()
	p.info.UpstreamURL = "http://" + p.ports.Upstream
	p.upstream = sampleupstream.New(sampleupstream.Config{AnyModel: true, CredentialHeader: "Authorization"})
	return nil
}

func (p *parts) openAgent(ctx context.Context) error {
	tel, err := p.newTelemetry("icp-agent")
	if err != nil {
		return err
	}
	join, token, err := p.control.Registry.CreateJoinToken(ctx, registry.System(), tenant, nodeName, 10*time.Minute)
	if err != nil {
		return fmt.Errorf("make a join token for the agent: %w", err)
	}
	p.joinToken = join.ID
	roots, err := p.serverRoots()
	if err != nil {
		return err
	}
	p.agent, err = agent.New(agent.Config{
		SocketPath: p.dir.file("agent.sock"), DataDir: p.dir.file("agent"), ServerURL: p.info.ServerURL, ServerRoots: roots,
		Attestors: attestors.All(), Telemetry: tel, AdminAddress: p.ports.AgentAdmin, JoinToken: token, NodeName: nodeName,
	})
	if err != nil {
		return p.explainPort("agent", p.ports.AgentAdmin, err)
	}
	p.info.AgentAdminURL = p.agent.AdminURL()
	p.ports.AgentAdmin = strings.TrimPrefix(p.info.AgentAdminURL, "http://")
	return nil
}

// dropJoinToken takes back what an agent that came back by its key did not use.
func (p *parts) dropJoinToken(ctx context.Context) error {
	err := p.control.Registry.DeleteJoinToken(ctx, registry.System(), tenant, p.joinToken)
	if identity.CodeOf(err) == identity.NotFound {
		return nil
	}
	return err
}

func (p *parts) serverRoots() (*x509.CertPool, error) {
	raw, err := os.ReadFile(p.info.ServerCAFile)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(raw) {
		return nil, fmt.Errorf("%s holds no certificate", p.info.ServerCAFile)
	}
	return roots, nil
}

func (p *parts) openProxy() error {
	tel, err := p.newTelemetry("agentauth-proxy")
	if err != nil {
		return err
	}
	key, err := p.sampleCredential()
	if err != nil {
		return err
	}
	cfg := proxy.Defaults()
	cfg.Listen, cfg.MetricsListen = p.ports.Proxy, p.ports.ProxyMetrics
	cfg.WorkloadAPI, cfg.SPIFFEID = p.info.AgentSocket, proxyID
	cfg.AuditFile = p.dir.file("proxy-audit.jsonl")
	cfg.Policies.Server, cfg.Policies.ServerCAFile = p.info.ServerURL, p.info.ServerCAFile
	cfg.Policies.CacheFile = p.dir.file("proxy-policies.json")
	cfg.Routes = []upstream.Route{
		{Service: "llm", PathPrefix: "/v1", Upstream: p.info.UpstreamURL, LLM: true, Credential: key},
		{Service: "echo", PathPrefix: "/echo", Upstream: p.info.UpstreamURL, Credential: key},
	}
	if p.proxy, err = proxy.New(cfg, proxy.Deps{Telemetry: tel, Now: time.Now, Stdout: p.log}); err != nil {
		return fmt.Errorf("set up the proxy: %w", err)
	}
	addrs, err := p.proxy.Listen()
	if err != nil {
		return p.explainPort("proxy", p.ports.Proxy, err)
	}
	p.ports.Proxy, p.ports.ProxyMetrics = addrs.Proxy.String(), addrs.Metrics.String()
	p.info.ProxyURL, p.info.ProxyMetricsURL = "https://"+p.ports.Proxy, "http://"+p.ports.ProxyMetrics
	return nil
}

// sampleCredential is the key that the proxy adds for the sample upstream, so
// that callers need none.
func (p *parts) sampleCredential() (*credential.Config, error) {
	const name = "upstream.key"
	path := p.dir.file(name)
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		if err := p.dir.replace(name, []byte("sample-upstream-key\n"), 0o600); err != nil {
			return nil, err
		}
	}
	return &credential.Config{Header: "Authorization", Prefix: "Bearer ", File: path}, nil
}

// mustID is for the constants of this package.
func mustID(text string) spiffeid.ID { return spiffeid.RequireFromString(text) }
