package verifier

import (
	"os/exec"

	"github.com/authsec-ai/icp/e2e/stage"
)

// OpenSSL is s_server. It refuses in the handshake.
func OpenSSL(t stage.T) Verifier {
	t.Helper()
	path := stage.Find(t, "ICP_TEST_OPENSSL", "openssl")
	r := rules{
		command: func(_ stage.T, s setup) *exec.Cmd {
			return exec.Command(path, "s_server", "-accept", "127.0.0.1:"+s.port, "-tls1_3", "-www",
				"-cert", s.certificate, "-key", s.key,
				"-CAfile", s.anchors, "-no-CApath", "-no-CAstore", "-Verify", "9", "-verify_return_error")
		},
		ready:    "ACCEPT\n",
		accepted: `Verify return code: 0 \(ok\)\n(?s:.*)^Client certificate\n`,
		refused:  `^verify error:num=(.*)\n|^[0-9A-F]+:error:(.*)\n`,
	}
	return r.verifier("OpenSSL", version(t, path, "version"))
}
