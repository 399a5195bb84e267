package python

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/authsec-ai/icp/e2e/stage"
)

// TestUnit runs the SDK's own tests.
func TestUnit(t *testing.T) {
	root := stage.Root(t)
	python := stage.Find(t, "ICP_PYTHON", filepath.Join(root, ".work/venv/bin/python"))
	cmd := exec.Command(python, "-m", "unittest", "discover", "-s", "tests")
	cmd.Dir = filepath.Join(root, "sdk/python")
	cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1")
	if out := stage.Output(t, cmd); !strings.Contains(out, "\nOK") || strings.Contains(out, "Ran 0 tests") {
		t.Errorf("the tests printed:\n%s", out)
	}
}
