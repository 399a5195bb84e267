package container_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/e2e/stage/container"
	"github.com/authsec-ai/icp/e2e/stage/docker"
	"github.com/authsec-ai/icp/e2e/stage/image"
)

// The test binary runs itself again for one of these, with a file to write when
// it is ready.
const (
	casualty = "ICP_TEST_CASUALTY" // an engine and what is killed
	ready    = "ICP_TEST_READY"
)

// TestNothingStays kills a container, an engine or the test binary in the midst of
// it all, and looks for what is left when the binary has ended.
func TestNothingStays(t *testing.T) {
	if what := os.Getenv(casualty); what != "" {
		die(t, what)
		return
	}
	for i, what := range []string{"docker binary", "docker container", "docker engine", "podman binary", "podman container"} {
		t.Run(what, func(t *testing.T) {
			run := fmt.Sprintf("dead%d_%d", os.Getpid(), i)
			out := filepath.Join(t.TempDir(), "ready")
			cmd := exec.Command(os.Args[0], "-test.run=^TestNothingStays$")
			cmd.Env = append(os.Environ(), casualty+"="+what, ready+"="+out, "ICP_STAGE_RUN="+run)
			binary := stage.Start(t, "binary", cmd)
			binary.WaitReady(t, time.Minute, func() error {
				_, err := os.Stat(out)
				return err
			})
			if strings.HasSuffix(what, " binary") {
				seesAll(t, run)
				kill(t, binary.PID)
			} else if err := binary.Err(); err != nil {
				t.Errorf("the test with a dead %s: %v", what, err)
			}
			stage.Eventually(t, 30*time.Second, func() error { return nothingLeft(run) })
		})
	}
}

// seesAll checks that the look for what is left finds what there is.
func seesAll(t *testing.T, run string) {
	t.Helper()
	left, err := stage.Left(run)
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join(left, "\n")
	for _, want := range []string{": /probe pause", ": /probe connect", "folder ", "control group "} {
		if !strings.Contains(all, want) {
			t.Errorf("the check sees no %q among\n%s", want, all)
		}
	}
	if !strings.Contains(all, "containerd-shim") && !strings.Contains(all, "conmon") {
		t.Errorf("the check sees no shim and no monitor among\n%s", all)
	}
}

func nothingLeft(run string) error {
	left, err := stage.Left(run)
	if len(left) > 0 {
		err = fmt.Errorf("left:\n%s", strings.Join(left, "\n"))
	}
	return err
}

// die starts an engine with two containers and a command in one, kills what it
// is told to, and ends as a test does that goes on.
func die(t *testing.T, what string) {
	name, victim, _ := strings.Cut(what, " ")
	var e *container.Engine
	killEngine := func() { t.Fatalf("%s has no daemon to kill", name) }
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
	if err := os.WriteFile(os.Getenv(ready), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	switch victim {
	case "container":
		if err := syscall.Kill(c.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	case "engine":
		killEngine()
	default:
		select {} // until killed
	}
}
