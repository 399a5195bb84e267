package main

import (
	"bytes"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/authsec-ai/icp/e2e/stage"
)

// TestRefusals asks for runs that can't be, and wants each refused for its own
// reason, before anything was made.
func TestRefusals(t *testing.T) {
	dir := stage.Folder(t)
	program := filepath.Join(dir, "chaos")
	stage.Output(t, exec.Command("go", "build", "-o", program, "."))
	for want, args := range map[string][]string{
		`what is "stray"?`:               {"stray"},
		"-kills has to be 1 or more":     {"-kills", "0"},
		"icp is not in":                  {"-bin", dir},
		"icp-server is not in":           {"-bin", dir, "-apart"},
		"there is no run to go on with:": {"-resume", dir, "-bin", filepath.Join(stage.Root(t), "bin")},
	} {
		var printed, complaint bytes.Buffer
		cmd := exec.Command(program, args...)
		cmd.Stdout, cmd.Stderr = &printed, &complaint
		err := cmd.Run()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != failed || !strings.Contains(complaint.String(), want) || printed.Len() > 0 {
			t.Errorf("%q: %v, want status %d and %q; it printed %s%s", args, err, failed, want, &printed, &complaint)
		}
	}
}
