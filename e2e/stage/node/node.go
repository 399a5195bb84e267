// Package node runs JavaScript of the stage's own with the packages that
// 'make components' takes from npm.
package node

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/authsec-ai/icp/e2e/stage"
)

// Command gives the command that runs an ECMAScript module; it may import npm's
// packages by name. The command's folder is its own and goes with the test.
func Command(t stage.T, module string) *exec.Cmd {
	t.Helper()
	program, dir := stage.Find(t, "ICP_TEST_NODE", "node"), stage.Folder(t)
	main := filepath.Join(dir, "main.mjs")
	if err := os.WriteFile(main, []byte(module), 0o644); err != nil {
		t.Fatalf("write a module for node: %v", err)
	}
	if err := os.Symlink(packages(t), filepath.Join(dir, "node_modules")); err != nil {
		t.Fatalf("give node its packages: %v", err)
	}
	cmd := exec.Command(program, "--no-warnings", main)
	cmd.Dir = dir
	return cmd
}

// Version gives the version of an npm package.
func Version(t stage.T, name string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(packages(t), name, "package.json"))
	if err != nil {
		t.Fatalf("%s is not installed: run 'make components' (%v)", name, err)
	}
	var about struct{ Version string }
	if err := json.Unmarshal(raw, &about); err != nil || about.Version == "" {
		t.Fatalf("%s has no version in its package.json: %v", name, err)
	}
	return about.Version
}

// packages gives the folder of npm's packages.
func packages(t stage.T) string {
	t.Helper()
	dir := filepath.Join(stage.Root(t), ".work", "npm", "node_modules")
	if _, err := os.Stat(dir); err != nil {
		t.Fatalf("npm's packages are not installed: run 'make components' (%v)", err)
	}
	return dir
}
