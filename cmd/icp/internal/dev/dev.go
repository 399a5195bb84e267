package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/authsec-ai/icp/agent"
	"github.com/authsec-ai/icp/cmd/internal/controlplane"
	"github.com/authsec-ai/icp/cmd/internal/program"
	"github.com/authsec-ai/icp/internal/telemetry"
	"github.com/authsec-ai/icp/proxy"
)

// The names that programs written against `icp dev` rely on.
const (
	tenant      = "dev"
	trustDomain = "dev.icp.internal"
	nodeName    = "dev"
	devID       = "spiffe://" + trustDomain + "/dev"
	proxyID     = "spiffe://" + trustDomain + "/agentauth-proxy"
	agentID     = "spiffe://" + trustDomain + "/agent/" + nodeName
)

// Options of Run.
type Options struct {
	Dir      string // everything it keeps
	Listen   string // of the server, loopback; port 0 means the last one, or any
	LogLevel slog.Level
	Stdout   io.Writer // the line that says ready, and the commands to copy
	Stderr   io.Writer // warnings

	// PollInterval is how often the server looks for changes that it was not
	// told of; 0 means its default.
	PollInterval time.Duration
}

// Run starts everything, says so when everything answers, and runs until ctx
// ends or a part fails.
func Run(ctx context.Context, opts Options) error {
	dir, err := openFolder(opts.Dir)
	if err != nil {
		return err
	}
	defer dir.close()
	log, err := os.OpenFile(dir.file(logName), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	defer log.Close()
	ports, err := dir.loadPorts(opts.Listen)
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(opts.Stderr, "warning: not running as root, so processes of other users cannot be attested: their /proc entries are closed to this user")
	}
	p := &parts{opts: opts, dir: dir, log: log, ports: ports}
	defer p.close()
	if err := p.open(ctx); err != nil {
		return err
	}
	return p.run(ctx)
}

const logName = "icp-dev.log"

// parts is the running whole.
type parts struct {
	opts  Options
	dir   *folder
	log   io.Writer
	ports ports

	control  *controlplane.ControlPlane
	agent    *agent.Agent
	proxy    *proxy.Proxy
	upstream http.Handler

	listeners []net.Listener // for HTTP parts that this package serves itself
	telemetry []*telemetry.Telemetry
	joinToken string // ID of the one that the agent may attest with
	info      Info
}

// open prepares every part and binds every port, in the order in which they
// depend on each other. Nothing serves yet.
func (p *parts) open(ctx context.Context) error {
	if err := p.openServer(ctx); err != nil {
		return err
	}
	if err := p.openUpstream(); err != nil {
		return err
	}
	if err := p.openAgent(ctx); err != nil {
		return err
	}
	if err := p.openProxy(); err != nil {
		return err
	}
	return p.dir.savePorts(p.ports)
}

// run serves, waits until all parts answer, writes dev.json and reports ready.
func (p *parts) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return p.control.Run(ctx) })
	group.Go(func() error { return program.ServeHTTP(ctx, p.listeners[0], p.upstream) })
	group.Go(func() error { return p.agent.Run(ctx) })
	group.Go(func() error { return p.proxy.Run(ctx) })
	group.Go(func() error {
		if err := p.awaitReady(ctx); err != nil {
			return err
		}
		if err := p.dropJoinToken(ctx); err != nil {
			return err
		}
		if err := p.dir.saveInfo(p.info); err != nil {
			return err
		}
		return p.announce()
	})
	err := group.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// readyWithin bounds the start. A first start makes keys and takes well under
// ten seconds.
const readyWithin = 30 * time.Second

func (p *parts) awaitReady(ctx context.Context) error {
	deadline := time.Now().Add(readyWithin)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := p.ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not ready within %s: %w; the log is %s", readyWithin, err, p.dir.file(logName))
		}
	}
}

func (p *parts) ready(ctx context.Context) error {
	for _, t := range p.telemetry {
		if err := t.Ready(ctx); err != nil {
			return err
		}
	}
	return nil
}

// announce prints the line that programs wait for, and what a person can try.
func (p *parts) announce() error {
	_, err := fmt.Fprintf(p.opts.Stdout, `ready: server %s, proxy %s, socket %s
  %[5]s --dir %[4]s entry list
  SPIFFE_ENDPOINT_SOCKET=%[3]s %[5]s api fetch x509
  %[5]s --dir %[4]s audit list
`, p.info.ServerURL, p.info.ProxyURL, p.info.AgentSocket, p.dir.path, command())
	return err
}

// command is how a shell finds this program: by name if it is on the path, else
// by where it is.
func command() string {
	self, err := os.Executable()
	if err != nil {
		return "icp"
	}
	if found, err := exec.LookPath("icp"); err == nil && found == self {
		return "icp"
	}
	return self
}

// newTelemetry gives one part its log and metrics.
func (p *parts) newTelemetry(service string) (*telemetry.Telemetry, error) {
	t, err := telemetry.New(service, p.log, p.opts.LogLevel)
	if err == nil {
		p.telemetry = append(p.telemetry, t)
	}
	return t, err
}

// close releases what open opened.
func (p *parts) close() {
	if p.agent != nil {
		p.agent.Close() // again, if it ran
	}
	for _, l := range p.listeners {
		_ = l.Close() // its server may have closed it
	}
	if p.control != nil {
		_ = p.control.Close() // everything is committed already
	}
	for _, t := range p.telemetry {
		_ = t.Close(context.Background()) // metrics of a program that ends
	}
}

// listen binds addr for the part called what.
func (p *parts) listen(what, addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, p.explainPort(what, addr, err)
	}
	p.listeners = append(p.listeners, l)
	return l, nil
}

// explainPort turns a busy port into a line that says what to do.
func (p *parts) explainPort(what, addr string, err error) error {
	var failed *net.OpError
	if errors.As(err, &failed) && failed.Addr != nil {
		addr = failed.Addr.String() // of a part with two ports, the one
	}
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%s: %s is in use by another program: stop it, or remove %s to choose new ports",
			what, addr, p.dir.file("ports.json"))
	}
	return fmt.Errorf("%s: %w", what, err)
}
