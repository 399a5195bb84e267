package image_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/e2e/stage/image"
)

// TestContainerd has containerd take an image and run it; docker and podman do so
// in the tests of package container.
func TestContainerd(t *testing.T) {
	img := image.OfProbe(t, "icp.test/probe:1", nil)
	dir := stage.Folder(t)
	m := stage.NewMachine(t, stage.CgroupsHost)
	socket, config := filepath.Join(dir, "sock"), filepath.Join(dir, "config.toml")
	if err := os.WriteFile(config, []byte("version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	daemon := m.Start(t, "containerd", exec.Command(stage.Find(t, "ICP_TEST_CONTAINERD", "containerd"),
		"--config", config, "--root", filepath.Join(dir, "root"), "--address", socket))
	daemon.WaitReady(t, time.Minute, func() error { return exec.Command("ctr", "--address", socket, "version").Run() })
	m.Output(t, exec.Command("ctr", "--address", socket, "images", "import", img.File))
	if word := m.Output(t, exec.Command("ctr", "--address", socket, "run", "--rm", img.Name, "one", "/probe", "print", "word")); word != "word\n" {
		t.Errorf("a container prints %q", word)
	}
}

func TestName(t *testing.T) {
	for name, good := range map[string]bool{"icp.test/a:1": true, "a:1": true, "icp.test:5000/a": false, "a": false, "a:": false} {
		err := stage.Run(context.Background(), func(s *stage.Session) { image.OfProbe(s, name, nil) })
		if refused := err != nil && strings.Contains(err.Error(), "has no tag"); refused == good {
			t.Errorf("%q: %v", name, err)
		}
	}
}
