package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/authsec-ai/icp/e2e/icpdev"
	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/e2e/stage/fault"
)

// apart is icp-server, icp-agent and agentauth-proxy, each a process of its own
// that may be killed while the others go on. Before the proxy's route stands a
// small service of this process.
type apart struct {
	t        stage.T
	bin, dir string
	postgres bool // the server keeps its data there, and not in a file
	faults   bool // of the links between them

	ports struct{ Server, ServerHealth, AgentAdmin, Proxy, ProxyMetrics string } // host:port each
	echo  *http.Server
	parts map[string]*child // by program, those that were started

	store  *postgres             // nil without
	linked map[Link]*fault.Proxy // none without faults
}

const (
	server = "icp-server"
	agent  = "icp-agent"
	proxy  = "agentauth-proxy"
)

const (
	trustDomain = "dev.icp.internal"
	agentID     = "spiffe://" + trustDomain + "/agent/dev"
	proxyID     = "spiffe://" + trustDomain + "/agentauth-proxy"
)

func (a *apart) file(name string) string { return filepath.Join(a.dir, name) }

func (a *apart) record(ctx context.Context, tenant string) (Record, error) {
	if a.store != nil {
		return a.store.record(ctx, tenant)
	}
	return ReadRecord(ctx, a.file("server/icp.db"), tenant)
}

func (a *apart) links() map[Link]*fault.Proxy { return a.linked }

// link puts a proxy into each link.
func (a *apart) link() {
	a.linked = map[Link]*fault.Proxy{AgentLink: fault.Start(a.t, a.ports.Server), ProxyLink: fault.Start(a.t, a.ports.Server)}
	if a.store != nil {
		a.linked[StoreLink] = fault.Start(a.t, a.store.socket())
	}
}

// storeLine says to the server where its data is; nothing for a file of its own.
func (a *apart) storeLine() string {
	switch p := a.linked[StoreLink]; {
	case p != nil:
		return fmt.Sprintf("store: {postgres: %q}\n", "postgres://icp@"+p.Addr+"/icp?sslmode=disable")
	case a.store != nil:
		return fmt.Sprintf("store: {postgres: %q}\n", a.store.dsn("icp", "icp"))
	}
	return ""
}

// serverURL is where one side of a link finds the server.
func (a *apart) serverURL(over Link) string {
	if p := a.linked[over]; p != nil {
		return "https://" + p.Addr
	}
	return a.info().ServerURL
}

func (a *apart) info() icpdev.Info {
	return icpdev.Info{ServerURL: "https://" + a.ports.Server, ServerCAFile: a.file("server/server-ca.pem"), AdminTokenFile: a.file("tenant.token"),
		Tenant: tenant, TrustDomain: trustDomain, AgentID: agentID, AgentSocket: "unix://" + a.file("agent.sock"), ProxyURL: "https://" + a.ports.Proxy}
}

func (a *apart) start(ctx context.Context) (info icpdev.Info, err error) {
	defer func() {
		if err != nil {
			a.end()
		}
	}()
	if a.parts == nil {
		if err := a.prepare(); err != nil {
			return info, err
		}
	}
	if err := a.startPart(ctx, server, a.ports.ServerHealth); err != nil {
		return info, err
	}
	if err := a.setUp(ctx); err != nil {
		return info, fmt.Errorf("set up the tenant: %w", err)
	}
	if err := a.startPart(ctx, agent, a.ports.AgentAdmin); err != nil {
		return info, err
	}
	return a.info(), a.startPart(ctx, proxy, a.ports.ProxyMetrics)
}

// prepare makes the folder, the ports and the service behind the proxy.
func (a *apart) prepare() error {
	a.parts = map[string]*child{}
	if err := os.MkdirAll(a.dir, 0o755); err != nil {
		return err
	}
	raw, err := os.ReadFile(a.file("ports.json"))
	if errors.Is(err, fs.ErrNotExist) {
		err = a.choosePorts()
	} else if err == nil {
		err = json.Unmarshal(raw, &a.ports)
	}
	if err != nil {
		return err
	}
	if a.postgres {
		a.store = startPostgres(a.t, a.file("postgres"))
	}
	if a.faults {
		a.link()
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	a.echo = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "echo") })}
	go func() { _ = a.echo.Serve(l) }() // ends with Close
	return a.configure("http://" + l.Addr().String())
}

// choosePorts remembers ports that were free a moment ago, so that a restart
// answers where its clients look.
func (a *apart) choosePorts() error {
	for _, port := range []*string{&a.ports.Server, &a.ports.ServerHealth, &a.ports.AgentAdmin, &a.ports.Proxy, &a.ports.ProxyMetrics} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer l.Close() // all at the end, so that none comes twice
		*port = l.Addr().String()
	}
	raw, err := json.Marshal(a.ports)
	if err != nil {
		return err
	}
	return os.WriteFile(a.file("ports.json"), raw, 0o644)
}

// configure writes the three configuration files.
func (a *apart) configure(upstream string) error {
	i := a.info()
	files := map[string]string{
		server: fmt.Sprintf("listen: %s\ndata_dir: %s\nhealth_listen: %s\n%s", a.ports.Server, a.file("server"), a.ports.ServerHealth, a.storeLine()),
		agent: fmt.Sprintf("socket_path: %s\ndata_dir: %s\nadmin_listen: %s\nnode_name: dev\nserver: {url: %q, ca_file: %s}\njoin_token_file: %s\n",
			a.file("agent.sock"), a.file("agent"), a.ports.AgentAdmin, a.serverURL(AgentLink), i.ServerCAFile, a.file("join.token")),
		proxy: fmt.Sprintf(`listen: %s
metrics_listen: %s
workload_api: %s
spiffe_id: %s
audit_file: %s
policies: {server: %q, server_ca_file: %s, cache_file: %s}
routes: [{service: echo, path_prefix: /echo, upstream: %q}]
`, a.ports.Proxy, a.ports.ProxyMetrics, i.AgentSocket, proxyID, a.file("audit.jsonl"), a.serverURL(ProxyLink), i.ServerCAFile, a.file("policies.json"), upstream),
	}
	for name, content := range files {
		if err := os.WriteFile(a.file(name+".yaml"), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// startPart runs one program unless it runs, and waits until it says that it is
// ready.
func (a *apart) startPart(ctx context.Context, name, health string) error {
	if old := a.parts[name]; old == nil || !old.running() {
		if err := a.run(name); err != nil {
			return err
		}
	}
	var err error
	for a.parts[name].running() {
		if err = ready(ctx, health); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w; it printed:\n%s", name, err, tail(a.file(name+".log")))
		case <-time.After(20 * time.Millisecond):
		}
	}
	return fmt.Errorf("%s ended (%w); it printed:\n%s", name, a.parts[name].err, tail(a.file(name+".log")))
}

// run starts one program; what it prints is added to its log.
func (a *apart) run(name string) error {
	log, err := os.OpenFile(a.file(name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close() // the program has its own
	cmd := exec.Command(filepath.Join(a.bin, name), "--config", a.file(name+".yaml"))
	cmd.Stdout, cmd.Stderr = log, log
	started, err := launch(name, cmd)
	if err != nil {
		return err
	}
	a.parts[name] = started
	return nil
}

func ready(ctx context.Context, address string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/readyz", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		raw, _ := io.ReadAll(io.LimitReader(resp.Body, 1024))
		return fmt.Errorf("%s: %s", resp.Status, raw)
	}
	return nil
}

// setUp makes what `icp dev` makes by itself: the tenant, its administrator, the
// entry of this process's user and that of the proxy. The administrator's token
// is written last, and says that all of it is there.
func (a *apart) setUp(ctx context.Context) error {
	if _, err := os.Stat(a.file("tenant.token")); err == nil {
		return nil
	}
	i := a.info()
	i.AdminTokenFile = a.file("server/admin.token")
	admin, err := i.Admin()
	if err != nil {
		return err
	}
	program, err := filepath.EvalSymlinks(filepath.Join(a.bin, proxy))
	if err != nil {
		return err
	}
	user := fmt.Sprintf("unix:uid:%d", os.Getuid())
	var join, token struct{ Token string }
	for _, step := range []struct {
		path string
		body map[string]any
		out  any
	}{
		{"/api/v1/tenants", map[string]any{"id": tenant, "trust_domain": trustDomain}, nil},
		{workloads, map[string]any{"tenant_id": tenant, "spiffe_id": "spiffe://" + trustDomain + "/dev", "parent_id": agentID, "selectors": []string{user}}, nil},
		{workloads, map[string]any{"tenant_id": tenant, "spiffe_id": proxyID, "parent_id": agentID,
			"selectors": []string{user, "unix:path:" + program}, "gateway": []string{"echo"}}, nil},
		{"/api/v1/policies", map[string]any{"tenant_id": tenant, "name": "dev-echo", "effect": "allow", "subjects": []string{"spiffe://" + trustDomain + "/dev"},
			"service": "echo", "methods": []string{"GET"}, "paths": []string{"/echo"}}, nil},
		{"/api/v1/join-tokens", map[string]any{"tenant_id": tenant, "node_name": "dev"}, &join},
		{"/api/v1/tokens", map[string]any{"tenant_id": tenant, "name": "chaos", "role": "tenant-admin"}, &token},
	} {
		if status, err := admin.Do(ctx, http.MethodPost, step.path, step.body, step.out); err != nil && status != http.StatusConflict {
			return err
		}
	}
	if err := os.WriteFile(a.file("join.token"), []byte(join.Token), 0o600); err != nil {
		return err
	}
	return os.WriteFile(a.file("tenant.token"), []byte(token.Token), 0o600)
}

// kill ends the server, the agent, the proxy, or all three.
func (a *apart) kill(rng *rand.Rand) string {
	victims := []string{server, agent, proxy}
	switch dice := rng.IntN(10); {
	case dice < 4:
		victims = victims[:1]
	case dice < 6:
		victims = victims[1:2]
	case dice < 7:
		victims = victims[2:]
	}
	for _, name := range victims {
		a.parts[name].kill()
	}
	return strings.Join(victims, ", ")
}

func (a *apart) end() {
	for _, part := range a.parts {
		part.kill()
	}
}

// stop ends the parts in the reverse order of their start.
func (a *apart) stop() error {
	var all error
	for _, name := range []string{proxy, agent, server} {
		all = errors.Join(all, a.parts[name].stop())
	}
	return errors.Join(all, a.echo.Close())
}

func (a *apart) ended() <-chan struct{} {
	first := make(chan struct{}, len(a.parts))
	for _, part := range a.parts {
		go func() {
			<-part.done
			first <- struct{}{}
		}()
	}
	return first
}

func (a *apart) failure() string {
	for name, part := range a.parts {
		if !part.running() {
			return name + ": " + tail(a.file(name+".log"))
		}
	}
	return ""
}
