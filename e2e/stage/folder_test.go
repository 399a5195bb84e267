package stage_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/authsec-ai/icp/e2e/stage"
)

// TestFolderSparesMounts checks that a folder goes with what is mounted in it,
// and that what was mounted stays.
func TestFolderSparesMounts(t *testing.T) {
	other := filepath.Join(stage.Folder(t), "precious")
	if err := os.WriteFile(other, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	var folder string
	t.Run("mount", func(t *testing.T) {
		folder = stage.Folder(t)
		stage.Output(t, exec.Command("sh", "-ec", `mkdir "$0/a b" "$0/c"; mount --bind "$1" "$0/a b"; mount -t tmpfs none "$0/c"; touch "$0/c/x"`,
			folder, filepath.Dir(other)))
	})
	if _, err := os.Stat(folder); !os.IsNotExist(err) {
		t.Errorf("the folder: %v", err)
	}
	if _, err := os.Stat(other); err != nil {
		t.Errorf("what was mounted in the folder is gone: %v", err)
	}
	if mounts := stage.Output(t, exec.Command("cat", "/proc/self/mountinfo")); strings.Contains(mounts, folder) {
		t.Errorf("mounted is still:\n%s", mounts)
	}
}

// TestLeftMount checks that the look for what is left sees a run's folder that
// is mounted elsewhere.
func TestLeftMount(t *testing.T) {
	run := fmt.Sprintf("mount%d", os.Getpid())
	source, target := filepath.Join(stage.Folder(t), "icp-"+run+"-1"), stage.Folder(t)
	if err := os.Mkdir(source, 0o700); err != nil {
		t.Fatal(err)
	}
	stage.Output(t, exec.Command("mount", "--bind", source, target))
	left, err := stage.Left(run)
	if want := "mount " + target + " of "; err != nil || !slices.ContainsFunc(left, func(l string) bool { return strings.HasPrefix(l, want) }) {
		t.Errorf("left is %q, %v; want a %q", left, err, want)
	}
}

// TestLeftNamespace checks that the look for what is left sees a network namespace
// that has a run's name.
func TestLeftNamespace(t *testing.T) {
	run := fmt.Sprintf("named%d", os.Getpid())
	name := filepath.Join("/run/netns", "icp-"+run+"-1")
	if err := os.Mkdir("/run/netns", 0o755); err == nil { // as ip-netns does, which leaves it
		t.Cleanup(func() { _ = os.Remove("/run/netns") }) // unless it has others
	}
	if err := os.WriteFile(name, nil, 0o600); err != nil { // no namespace is mounted there
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(name) })
	left, err := stage.Left(run)
	if want := "network namespace " + name; err != nil || !slices.Contains(left, want) {
		t.Errorf("left is %q, %v; want %q", left, err, want)
	}
}
