// Package kubernetes starts a real Kubernetes: a control plane alone, for tests
// that ask its API, or a whole cluster of one node in a machine of its own.
package kubernetes

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/authsec-ai/icp/e2e/stage"
)

// program gives the path of one of Kubernetes' programs, as tools/kubernetes.sh
// has built it.
func program(t stage.T, name string) string {
	t.Helper()
	where := exec.Command(filepath.Join(stage.Root(t), "tools", "kubernetes.sh"), "where")
	path := filepath.Join(strings.TrimSpace(stage.Output(t, where)), name)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%s is not built: run 'make components'", path)
	}
	return path
}

// nobody is whom the control plane runs as.
const nobody = 65534

// unprivileged is exec.Command, as nobody if this program is root's.
func unprivileged(t stage.T, path string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(path, args...)
	if os.Geteuid() != 0 {
		return cmd
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatalf("run %s: %v", path, err)
	}
	t.Cleanup(func() { _ = file.Close() })
	// By descriptor: nobody may not walk to a folder below root's home.
	cmd.ExtraFiles, cmd.Path = []*os.File{file}, "/proc/self/fd/3"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	return cmd
}

// give hands a file or folder to the user that the control plane runs as.
func give(path string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	return os.Chown(path, nobody, nobody)
}

// loopback gives the address of a port of the loopback interface.
func loopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }
