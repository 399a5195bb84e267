// Package docker starts a real Docker engine in a machine of its own: what it
// does to networks, mounts and control groups ends there.
package docker

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/e2e/stage/container"
)

// Options says how an engine is started.
type Options struct {
	Cgroups stage.Cgroups // what its machine shows; CgroupsHost if empty
	Flags   []string      // for dockerd, beyond ours
}

// Engine is dockerd with its containers.
type Engine struct {
	container.Engine
	Socket string // of its API; the path is good inside and outside of the machine

	folder  string
	flags   []string
	process *stage.Process
}

// Start starts an engine that ends when the test does, and waits until it answers.
func Start(t stage.T, options Options) *Engine {
	t.Helper()
	dockerd := stage.Find(t, "ICP_TEST_DOCKERD", "dockerd")
	docker := stage.Find(t, "ICP_TEST_DOCKER", "docker")
	folder := stage.Folder(t) // before the machine: it goes after it
	e := &Engine{Socket: filepath.Join(folder, "docker.sock"), folder: folder}
	e.Machine = stage.NewMachine(t, cmp.Or(options.Cgroups, stage.CgroupsHost))
	e.Command = []string{docker, "--config", filepath.Join(folder, "cli"), "--host", "unix://" + e.Socket}
	// What is not in the folder is in the machine's own /run.
	e.flags = append([]string{dockerd, "--data-root", filepath.Join(folder, "data"), "--host", "unix://" + e.Socket}, options.Flags...)
	e.start(t)
	return e
}

func (e *Engine) start(t stage.T) {
	t.Helper()
	e.process = e.Machine.Start(t, "dockerd", exec.Command(e.flags[0], e.flags[1:]...))
	t.Cleanup(e.process.Kill) // before it is asked politely: it would wait for its containers
	e.process.WaitReady(t, time.Minute, e.ping)
}

// ping asks the API whether it is there.
func (e *Engine) ping() error {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", e.Socket)
	}}
	client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
	response, err := client.Get("http://docker/_ping")
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("docker answers %s", response.Status)
	}
	return nil
}

// Kill ends dockerd at once (SIGKILL). Its containers live on until it is
// started again.
func (e *Engine) Kill() { e.process.Kill() }

// Restart starts dockerd again on the same socket and data, and ends the
// containers that are left.
func (e *Engine) Restart(t stage.T) {
	t.Helper()
	e.process.Stop()
	e.start(t)
}

// Version gives the engine's version.
func (e *Engine) Version(t stage.T) string {
	t.Helper()
	return e.Do(t, "version", "--format", "{{.Server.Version}}")
}
