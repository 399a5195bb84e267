package verifier

import (
	"fmt"
	"os/exec"
	"path/filepath"

	"github.com/authsec-ai/icp/e2e/stage"
)

// haproxyConfig takes port, certificate (HAProxy finds the key by its name) and
// anchors.
const haproxyConfig = `
global
  maxconn 64
  nbthread 1
  log stdout format raw daemon
defaults
  mode http
  log global
  timeout client 1m
  timeout server 1m
  timeout connect 1m
  error-log-format "%%cp refused: ssl_c_ca_err=%%[ssl_c_ca_err] ssl_c_err=%%[ssl_c_err]: %%[ssl_fc_err_str]"
frontend verifier
  bind 127.0.0.1:%s ssl ssl-min-ver TLSv1.3 crt %s ca-file %s verify required
  http-request return status 200 content-type text/plain lf-string "ssl_c_used=%%[ssl_c_used] ssl_c_verify=%%[ssl_c_verify]"
`

// HAProxy refuses in the handshake. Its ssl_c_ca_err, for authorities, and
// ssl_c_err, for the leaf, are OpenSSL's X509_V_ERR numbers.
func HAProxy(t stage.T) Verifier {
	t.Helper()
	path := stage.Find(t, "ICP_TEST_HAPROXY", "haproxy", "/usr/sbin/haproxy")
	r := rules{
		command: func(t stage.T, s setup) *exec.Cmd {
			config := filepath.Join(s.dir, "haproxy.cfg")
			write(t, config, fmt.Appendf(nil, haproxyConfig, s.port, s.certificate, s.anchors))
			return exec.Command(path, "-db", "-f", config)
		},
		accepted: `^ssl_c_used=1 ssl_c_verify=0$`,
		refused:  `^PORT refused: (.*)\n`,
	}
	return r.verifier("HAProxy", version(t, path, "-v"))
}
