// Package icpdev runs `icp dev` as a process of its own and talks to it the way
// a user's programs would: through dev.json, REST and the socket.
package icpdev

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Info is dev.json.
type Info struct {
	ServerURL       string `json:"server_url"`
	ServerCAFile    string `json:"server_ca_file"`
	AdminTokenFile  string `json:"admin_token_file"`
	Tenant          string `json:"tenant"`
	TrustDomain     string `json:"trust_domain"`
	AgentID         string `json:"agent_id"`
	AgentSocket     string `json:"agent_socket"`
	AgentAdminURL   string `json:"agent_admin_url"`
	ProxyURL        string `json:"proxy_url"`
	ProxyMetricsURL string `json:"proxy_metrics_url"`
	UpstreamURL     string `json:"upstream_url"`
	PID             int    `json:"pid"`
}

// ProxyID is the SPIFFE ID that the proxy of `icp dev` shows.
func (i Info) ProxyID() string { return "spiffe://" + i.TrustDomain + "/agentauth-proxy" }

// Instance is a running `icp dev`.
type Instance struct {
	Info
	Dir     string
	LogFile string

	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

// Options of Start.
type Options struct {
	Binary string   // path of icp
	Dir    string   // its --dir
	Args   []string // more flags
	Env    []string // more environment, "KEY=value"
	Keep   bool     // let it outlive this program, for Release
}

// Start runs `icp dev` and returns when it has said that it is ready. Unless it
// is to be kept, the kernel kills it if this program dies.
func Start(ctx context.Context, o Options) (*Instance, error) {
	log, err := os.Create(strings.TrimSuffix(o.Dir, "/") + ".log")
	if err != nil {
		return nil, fmt.Errorf("log of icp dev: %w", err)
	}
	defer log.Close()
	in := &Instance{Dir: o.Dir, LogFile: log.Name(), done: make(chan struct{})}
	in.cmd = exec.Command(o.Binary, append([]string{"dev", "--dir", o.Dir}, o.Args...)...)
	in.cmd.Env = append(os.Environ(), o.Env...)
	in.cmd.Stderr = log
	in.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if !o.Keep {
		in.cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	out, err := in.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	started, ready := make(chan error, 1), make(chan struct{})
	go in.run(started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start icp dev: %w", err)
	}
	go watch(out, ready)
	return in.await(ctx, ready)
}

// run keeps the thread that started the child: the parent-death signal is tied
// to it.
func (in *Instance) run(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := in.cmd.Start(); err != nil {
		started <- err
		return
	}
	started <- nil
	state, err := in.cmd.Process.Wait() // not cmd.Wait: it would close the pipe under watch
	if err == nil && !state.Success() {
		err = errors.New(state.String())
	}
	in.err = err
	close(in.done)
}

// watch closes ready at the line that starts with "ready" and reads on, so that
// the child never blocks on a full pipe.
func watch(out io.Reader, ready chan<- struct{}) {
	lines := bufio.NewScanner(out)
	said := false
	for lines.Scan() {
		if !said && strings.HasPrefix(lines.Text(), "ready") {
			said = true
			close(ready)
		}
	}
}

func (in *Instance) await(ctx context.Context, ready <-chan struct{}) (*Instance, error) {
	select {
	case <-ready:
	case <-in.done:
		return nil, fmt.Errorf("icp dev ended (%v); it printed:\n%s", in.err, in.Tail())
	case <-ctx.Done():
		in.Kill()
		return nil, fmt.Errorf("icp dev was not ready in time; it printed:\n%s", in.Tail())
	}
	raw, err := os.ReadFile(filepath.Join(in.Dir, "dev.json"))
	if err == nil {
		err = json.Unmarshal(raw, &in.Info)
	}
	if err != nil {
		in.Kill()
		return nil, fmt.Errorf("dev.json: %w", err)
	}
	return in, nil
}

// Tail gives the end of what it printed to standard error.
func (in *Instance) Tail() string {
	raw, _ := os.ReadFile(in.LogFile)
	return string(raw[max(0, len(raw)-4096):])
}

// Stop ends it cleanly; after ten seconds it is killed, and that is an error.
func (in *Instance) Stop() error {
	_ = in.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-in.done:
		return in.err
	case <-time.After(10 * time.Second):
		in.Kill()
		return errors.New("icp dev did not end within ten seconds of SIGTERM")
	}
}

// Kill ends it with SIGKILL and waits.
func (in *Instance) Kill() {
	_ = in.cmd.Process.Kill() // it may have ended
	<-in.done
}

// Done is closed when it has ended.
func (in *Instance) Done() <-chan struct{} { return in.done }

// Release leaves one that is to be kept running without this program.
func (in *Instance) Release() int { return in.cmd.Process.Pid }

// Admin is a client of the administrative REST API.
type Admin struct {
	URL   string
	Token string
	HTTP  *http.Client
}

// Admin makes a client with the token of dev.json.
func (i Info) Admin() (*Admin, error) {
	ca, err := os.ReadFile(i.ServerCAFile)
	if err != nil {
		return nil, err
	}
	token, err := os.ReadFile(i.AdminTokenFile)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("%s holds no certificate", i.ServerCAFile)
	}
	return &Admin{
		URL:   i.ServerURL,
		Token: strings.TrimSpace(string(token)),
		HTTP: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
			TLSClientConfig:   &tls.Config{RootCAs: roots},
			ForceAttemptHTTP2: true,
		}},
	}, nil
}

// Do sends one request with a JSON body (nil for none), reads the answer into
// out (nil to drop it), and gives the status. A status of 400 or more is an
// error that carries the body.
func (a *Admin) Do(ctx context.Context, method, path string, in, out any) (int, error) {
	var body io.Reader
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			return 0, err
		}
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, a.URL+path, body)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+a.Token)
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := a.HTTP.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	switch {
	case err != nil:
		return resp.StatusCode, err
	case resp.StatusCode >= 400:
		return resp.StatusCode, fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, raw)
	case out != nil && len(raw) > 0:
		return resp.StatusCode, json.Unmarshal(raw, out)
	}
	return resp.StatusCode, nil
}

// Entry is what a test writes of a registration entry.
type Entry struct {
	ID        string   `json:"id,omitempty"`
	SPIFFEID  string   `json:"spiffe_id"`
	ParentID  string   `json:"parent_id"`
	Selectors []string `json:"selectors"`
	TTL       string   `json:"ttl,omitempty"`
}

// CreateEntry registers a workload under the agent of i and gives the entry's id.
func (a *Admin) CreateEntry(ctx context.Context, e Entry) (string, error) {
	var created struct {
		ID string `json:"id"`
	}
	_, err := a.Do(ctx, http.MethodPost, "/api/v1/workloads", e, &created)
	return created.ID, err
}

// DeleteEntry removes it.
func (a *Admin) DeleteEntry(ctx context.Context, id string) error {
	_, err := a.Do(ctx, http.MethodDelete, "/api/v1/workloads/"+id, nil, nil)
	return err
}
