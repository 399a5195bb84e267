package verifier

import (
	_ "embed"
	"os/exec"
	"path/filepath"

	"github.com/authsec-ai/icp/e2e/stage"
)

//go:embed TLSServer.java
var javaServer []byte

// Java is the platform's own TLS with its default trust manager. It refuses in
// the handshake. It takes a second or two to start.
func Java(t stage.T) Verifier {
	t.Helper()
	path := stage.Find(t, "ICP_TEST_JAVA", "java")
	r := rules{
		command: func(t stage.T, s setup) *exec.Cmd {
			source := filepath.Join(s.dir, "TLSServer.java")
			write(t, source, javaServer)
			return exec.Command(path, "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx128m",
				source, s.port, s.certificate, s.key, s.anchors)
		},
		accepted: `^accepted\n`,
		refused:  `^PORT refused: (.*)\n`,
	}
	return r.verifier("Java", version(t, path, "-version"))
}
