package image

import (
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/authsec-ai/icp/e2e/stage"
)

// Probe gives the path of the program e2e/stage/probe, which is static: it runs
// in an image of its own. The first call after a change builds it.
func Probe(t stage.T) string {
	t.Helper()
	root := stage.Root(t)
	dir := filepath.Join(root, ".work", "stage")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatalf("build the probe: %v", err)
	}
	lock, err := os.Create(filepath.Join(dir, "lock"))
	if err != nil {
		t.Fatalf("build the probe: %v", err)
	}
	defer lock.Close()                                               // which unlocks it
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil { // other tests may be building it
		t.Fatalf("build the probe: %v", err)
	}
	path := filepath.Join(dir, "probe")
	build := exec.Command("go", "build", "-buildvcs=false", "-ldflags=-s -w", "-o", path, "./e2e/stage/probe")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	stage.Output(t, build)
	return path
}

// OfProbe writes an image of the probe that has these labels and pauses unless
// its containers bring arguments.
func OfProbe(t stage.T, name string, labels map[string]string) Image {
	t.Helper()
	return Write(t, Spec{Name: name, Binary: Probe(t), Cmd: []string{"pause"}, Labels: labels})
}
