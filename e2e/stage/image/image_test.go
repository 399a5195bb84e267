package image_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/e2e/stage/image"
)

// TestEnginesAgree loads one file into containerd and podman, and asks them what
// it is; docker is asked by the tests of package docker.
func TestEnginesAgree(t *testing.T) {
	img := image.OfProbe(t, "icp.test/probe:1", map[string]string{"app": "frontend"})
	m := stage.NewMachine(t, stage.CgroupsHost)

	t.Run("containerd", func(t *testing.T) {
		dir := stage.Folder(t)
		socket := filepath.Join(dir, "c.sock")
		config := filepath.Join(dir, "config.toml")
		if err := os.WriteFile(config, []byte(`version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri"]
`), 0o600); err != nil {
			t.Fatal(err)
		}
		daemon := m.Start(t, "containerd", exec.Command("containerd", "--config", config,
			"--root", filepath.Join(dir, "root"), "--state", filepath.Join(dir, "state"), "--address", socket))
		daemon.WaitReady(t, time.Minute, func() error {
			return exec.Command("ctr", "--address", socket, "version").Run()
		})
		ctr := func(args ...string) string {
			return m.Output(t, exec.Command("ctr", append([]string{"--address", socket, "images"}, args...)...))
		}
		ctr("import", img.File)
		if list := ctr("list"); !strings.Contains(list, img.Name+" ") {
			t.Errorf("containerd has %s", list)
		}
	})

	t.Run("podman", func(t *testing.T) {
		dir := stage.Folder(t)
		podman := func(args ...string) string {
			return m.Output(t, exec.Command("podman", append([]string{"--root", dir + "/root", "--runroot", dir + "/run",
				"--tmpdir", dir + "/tmp", "--cgroup-manager", "cgroupfs", "--events-backend", "file"}, args...)...))
		}
		podman("load", "--quiet", "--input", img.File)
		seen := podman("image", "inspect", "--format", "{{.ID}} {{.RepoTags}} {{.Config.Labels}}", img.Name)
		want := fmt.Sprintf("%s [%s] map[app:frontend]", strings.TrimPrefix(img.ID, "sha256:"), img.Name)
		if strings.TrimSpace(seen) != want {
			t.Errorf("podman has %q, want %q", seen, want)
		}
	})
}
