package container_test

import (
	"syscall"
	"testing"

	"github.com/authsec-ai/icp/e2e/stage/container"
	"github.com/authsec-ai/icp/e2e/stage/docker"
	"github.com/authsec-ai/icp/e2e/stage/image"
	"github.com/authsec-ai/icp/e2e/stage/lefttest"
)

// TestNothingStays kills a container, an engine or the test binary in the midst of
// it all, and looks for what is left when the binary has ended.
func TestNothingStays(t *testing.T) {
	for _, name := range []string{"docker", "podman"} {
		monitor := map[string]string{"docker": "containerd-shim", "podman": "conmon"}[name]
		t.Run(name+" binary", func(t *testing.T) {
			lefttest.Killed(t, func(t *testing.T) { occupied(t, name) },
				": /probe pause", ": /probe connect", "folder ", "control group ", monitor)
		})
		t.Run(name+" container", func(t *testing.T) {
			lefttest.Ended(t, func(t *testing.T) {
				c, _ := occupied(t, name)
				if err := syscall.Kill(c.PID, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
	t.Run("docker engine", func(t *testing.T) {
		lefttest.Ended(t, func(t *testing.T) {
			_, killEngine := occupied(t, "docker")
			killEngine()
		})
	})
}

// occupied starts an engine with two containers and a command in one, which it
// gives, with what kills the engine, if that is a process.
func occupied(t *testing.T, name string) (*container.Container, func()) {
	var e *container.Engine
	var killEngine func()
	if name == "docker" {
		started := docker.Start(t, docker.Options{})
		e, killEngine = &started.Engine, started.Kill
	} else {
		e = engines[name](t)
	}
	img := image.OfProbe(t, "icp.test/probe:1", nil)
	e.Load(t, img)
	c := e.Run(t, container.Spec{Image: img.Name})
	e.Run(t, container.Spec{Image: img.Name, Network: "none"})
	c.Spawn(t, "/probe", "connect", "/nowhere")
	return c, killEngine
}
