package verifier

import (
	_ "embed"
	"os/exec"
	"path/filepath"

	"github.com/authsec-ai/icp/e2e/stage"
)

//go:embed tls_server.py
var pythonServer []byte

// Python is its module ssl. It refuses in the handshake.
func Python(t stage.T) Verifier {
	t.Helper()
	path := findPython(t)
	r := rules{
		command: func(t stage.T, s setup) *exec.Cmd {
			script := filepath.Join(s.dir, "tls_server.py")
			write(t, script, pythonServer)
			return exec.Command(path, "-I", script, s.port, s.certificate, s.key, s.anchors)
		},
		accepted: `^accepted\n`,
		refused:  `^PORT refused: (.*)\n`,
	}
	return r.verifier("Python", version(t, path, "--version"))
}

// findPython gives the Python that has the tests' packages.
func findPython(t stage.T) string {
	t.Helper()
	return stage.Find(t, "ICP_PYTHON", filepath.Join(stage.Root(t), ".work/venv/bin/python"))
}
