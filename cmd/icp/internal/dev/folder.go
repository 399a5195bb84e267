package dev

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// maxSocketPath is the longest path of a unix socket on Linux, without the
// closing NUL.
const maxSocketPath = 107

// folder is the --dir of one `icp dev`, locked for as long as it runs.
type folder struct {
	path string
	lock *os.File
}

// openFolder makes and locks the folder. Each thing that can be wrong with it is
// one clear error.
func openFolder(path string) (*folder, error) {
	if path == "" {
		return nil, errors.New("--dir is empty: name the folder that keeps everything, for example /tmp/icp-dev")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	d := &folder{path: path}
	if n := len(d.file("agent.sock")); n > maxSocketPath {
		return nil, fmt.Errorf("the agent's socket would be %s, %d bytes; the system allows %d: choose a shorter --dir",
			d.file("agent.sock"), n, maxSocketPath)
	}
	// Workloads of other users must be able to reach the socket; whatever is
	// secret in here has a mode of its own.
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, fmt.Errorf("cannot make the folder %s: %w: choose another --dir", path, cause(err))
	}
	if err := d.takeLock(); err != nil {
		return nil, err
	}
	if err := os.Remove(d.file("dev.json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.close()
		return nil, fmt.Errorf("cannot write in %s: %w: choose another --dir", path, cause(err))
	}
	return d, nil
}

// takeLock keeps a second `icp dev` out. The kernel drops the lock when the
// process ends, however it ends.
func (d *folder) takeLock() error {
	lock, err := os.OpenFile(d.file("lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("cannot write in %s: %w: choose another --dir", d.path, cause(err))
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		owner, _ := os.ReadFile(lock.Name())
		lock.Close()
		return fmt.Errorf("another icp dev (process %s) is running on %s: stop it, or choose another --dir",
			strings.TrimSpace(string(owner)), d.path)
	}
	if err = lock.Truncate(0); err == nil {
		_, err = fmt.Fprintln(lock, os.Getpid())
	}
	d.lock = lock
	return err
}

func (d *folder) close() { d.lock.Close() }

func (d *folder) file(name string) string { return filepath.Join(d.path, name) }

// replace writes a file so that a reader sees the old or the new one, whole.
func (d *folder) replace(name string, content []byte, mode fs.FileMode) error {
	temporary := d.file("." + name + ".new")
	if err := os.WriteFile(temporary, content, mode); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return os.Rename(temporary, d.file(name))
}

// ports are remembered, so that a restart answers where the last run did.
type ports struct {
	Server       string `json:"server"`
	AgentAdmin   string `json:"agent_admin"`
	Proxy        string `json:"proxy"`
	ProxyMetrics string `json:"proxy_metrics"`
	Upstream     string `json:"upstream"`
}

// loadPorts gives the addresses to listen on: those of the last run, else a free
// port each, the server's from listen.
func (d *folder) loadPorts(listen string) (ports, error) {
	const anyPort = "127.0.0.1:0"
	p := ports{Server: listen, AgentAdmin: anyPort, Proxy: anyPort, ProxyMetrics: anyPort, Upstream: anyPort}
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return p, fmt.Errorf("--listen %s: write it as address:port, for example 127.0.0.1:8443", listen)
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return p, fmt.Errorf("--listen %s: icp dev answers on loopback only, for example 127.0.0.1:8443", listen)
	}
	raw, err := os.ReadFile(d.file("ports.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	var old ports
	if err == nil {
		err = json.Unmarshal(raw, &old)
	}
	if err != nil {
		return p, fmt.Errorf("ports.json: %w: delete it to choose new ports", err)
	}
	if port != "0" {
		old.Server = listen
	}
	return old, nil
}

func (d *folder) savePorts(p ports) error {
	raw, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return d.replace("ports.json", append(raw, '\n'), 0o644)
}

// cause is the last error of the chain: "permission denied" without the path
// that the message names already.
func cause(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}

// Info is dev.json, the contract with programs that use `icp dev`.
type Info struct {
	ServerURL       string `json:"server_url"`
	ServerCAFile    string `json:"server_ca_file"`
	AdminTokenFile  string `json:"admin_token_file"`
	Tenant          string `json:"tenant"`
	TrustDomain     string `json:"trust_domain"`
	AgentID         string `json:"agent_id"` // serves as parent_id of entries
	AgentSocket     string `json:"agent_socket"`
	AgentAdminURL   string `json:"agent_admin_url"`
	ProxyURL        string `json:"proxy_url"`
	ProxyMetricsURL string `json:"proxy_metrics_url"`
	UpstreamURL     string `json:"upstream_url"`
	PID             int    `json:"pid"`
}

func (d *folder) saveInfo(info Info) error {
	raw, err := json.MarshalIndent(info, "", "  ")
	if err != nil {
		return err
	}
	return d.replace("dev.json", append(raw, '\n'), 0o644)
}
