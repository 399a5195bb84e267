package stage

import (
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
)

// Root gives the repository's folder.
func Root(t T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatalf("find the repository: %v", err)
	}
	for start := dir; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			t.Fatalf("find the repository: no go.mod above %s", start)
		}
	}
}

// Program gives the path of one of the repository's own programs, as 'make
// build' left it.
func Program(t T, name string) string {
	t.Helper()
	path := filepath.Join(Root(t), "bin", name)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%s is not built: run 'make build'", path)
	}
	return path
}

var folders atomic.Int32

// Folder makes a folder that every user can walk into, with a short path: a
// socket's has at most 107 bytes. It goes when the test ends.
func Folder(t T) string {
	t.Helper()
	dir := fmt.Sprintf("/tmp/%s%d-%d", prefix(RunID()), os.Getpid(), folders.Add(1))
	if err := entrust("folder", dir); err != nil {
		t.Fatalf("make a folder: %v", err)
	}
	t.Cleanup(func() {
		if err := removeFolder(dir); err != nil { // the keeper tries again
			t.Errorf("remove what the test left: %v", err)
			return
		}
		release("folder", dir)
	})
	if err := mkdir(dir); err != nil {
		t.Fatalf("make a folder: %v", err)
	}
	return dir
}

// mkdir makes a folder that every user can walk into, whatever the umask.
func mkdir(path string) error {
	if err := os.Mkdir(path, 0o755); err != nil {
		return err
	}
	return os.Chmod(path, 0o755)
}
