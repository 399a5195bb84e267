package verifier

import (
	_ "embed"
	"io"
	"net"
	"os/exec"
	"path/filepath"

	"github.com/authsec-ai/icp/e2e/stage"
)

//go:embed pyca_server.py
var pycaServer []byte

// Pyca is pyca/cryptography's verifier of clients. It alone makes no handshake:
// it is given the chain as it is, and no key proves that the chain is one's own.
func Pyca(t stage.T) Verifier {
	t.Helper()
	path := findPython(t)
	r := rules{
		command: func(t stage.T, s setup) *exec.Cmd {
			script := filepath.Join(s.dir, "pyca_server.py")
			write(t, script, pycaServer)
			return exec.Command(path, "-I", script, s.port, s.anchors)
		},
		ask:      send,
		accepted: `^accepted\n`,
		refused:  `^refused: (.*)\n`,
	}
	return r.verifier("pyca", version(t, path, "-I", "-c", "import cryptography; print(cryptography.__version__)"))
}

// send sends the chain itself, PEM, and reads the answer to its end.
func send(conn net.Conn, _ setup, chain presented) (string, error) {
	chain.asked()
	if _, err := conn.Write(encode(chain.Certificate.Certificate)); err != nil {
		return "", err
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return "", err
	}
	text, err := io.ReadAll(conn)
	return string(text), err
}
