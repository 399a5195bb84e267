// Package podman starts a real podman in a machine of its own. It has no daemon:
// each container has a monitor.
package podman

import (
	"cmp"
	"os"
	"path/filepath"

	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/e2e/stage/container"
)

// Options says how an engine is started.
type Options struct {
	Cgroups stage.Cgroups // what its machine shows; CgroupsHost if empty
}

// Engine is podman with its containers.
type Engine struct {
	container.Engine
}

// configuration leaves systemd out, and asks for no more than a test may give:
// podman raises limits to what root has elsewhere.
const configuration = `[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"

[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
pids_limit = 0
`

// Start gives an engine that ends when the test does.
func Start(t stage.T, options Options) *Engine {
	t.Helper()
	podman := stage.Find(t, "ICP_TEST_PODMAN", "podman")
	folder := stage.Folder(t) // before the machine: it goes after it
	config := filepath.Join(folder, "containers.conf")
	if err := os.WriteFile(config, []byte(configuration), 0o644); err != nil {
		t.Fatalf("configure podman: %v", err)
	}
	e := &Engine{}
	e.Machine = stage.NewMachine(t, cmp.Or(options.Cgroups, stage.CgroupsHost))
	// What is not in the folder is in the machine's own /run, /var and /dev/shm.
	e.Command = []string{podman, "--root", filepath.Join(folder, "data")}
	e.Env = []string{"CONTAINERS_CONF=" + config, "HOME=" + folder}
	return e
}

// Version gives podman's version.
func (e *Engine) Version(t stage.T) string {
	t.Helper()
	return e.Do(t, "version", "--format", "{{.Client.Version}}")
}
