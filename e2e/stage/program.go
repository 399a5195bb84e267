package stage

import (
	"os"
	"path/filepath"
	"testing"
)

// Root gives the repository's folder.
func Root(tb testing.TB) string {
	tb.Helper()
	dir, err := os.Getwd()
	if err != nil {
		tb.Fatalf("find the repository: %v", err)
	}
	for start := dir; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			tb.Fatalf("find the repository: no go.mod above %s", start)
		}
	}
}

// Program gives the path of one of the repository's own programs, as 'make
// build' left it.
func Program(tb testing.TB, name string) string {
	tb.Helper()
	path := filepath.Join(Root(tb), "bin", name)
	if _, err := os.Stat(path); err != nil {
		tb.Fatalf("%s is not built: run 'make build'", path)
	}
	return path
}

// Folder makes a folder that every user can walk into, with a short path: a
// socket's has at most 107 bytes. It goes when the test ends.
func Folder(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("/tmp", "icp-e2e-")
	if err != nil {
		tb.Fatalf("make a folder: %v", err)
	}
	tb.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			tb.Errorf("remove what the test left: %v", err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		tb.Fatalf("open the folder to others: %v", err)
	}
	return dir
}
