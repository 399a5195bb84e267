package verifier

import (
	"os/exec"

	"github.com/authsec-ai/icp/e2e/stage"
)

// GnuTLS is gnutls-serv. It refuses in the handshake, and does not look at the
// extended key usage. It runs in a machine of its own, because it listens on
// every address there is.
func GnuTLS(t stage.T) Verifier {
	t.Helper()
	path := stage.Find(t, "ICP_TEST_GNUTLS", "gnutls-serv")
	stdbuf := stage.Find(t, "ICP_TEST_STDBUF", "stdbuf")
	r := rules{
		command: func(_ stage.T, s setup) *exec.Cmd {
			return exec.Command(stdbuf, "-oL", // it would keep its reasons to itself until its end
				path, "--http", "--port", s.port, "--priority", "NORMAL:-VERS-ALL:+VERS-TLS1.3",
				"--x509certfile", s.certificate, "--x509keyfile", s.key,
				"--x509cafile", s.anchors, "--require-client-cert", "--verify-client-cert")
		},
		ready:    "listening on IPv4 0.0.0.0",
		accepted: `^HTTP/1.0 200 OK`,
		refused:  `^- Status: (The certificate is NOT trusted\. .*?) ?\n|^Error in handshake: (.*)\n`,
		machine:  stage.NewMachine(t, stage.CgroupsHost),
	}
	return r.verifier("GnuTLS", version(t, path, "--version"))
}
