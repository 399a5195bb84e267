package verifier

import (
	"fmt"
	"os/exec"
	"path/filepath"

	"github.com/authsec-ai/icp/e2e/stage"
)

// nginxConfig takes port, certificate, key and anchors. A depth of one would be
// nginx's own choice; a longer chain shall not be refused for its length.
const nginxConfig = `
daemon off;
master_process off;
pid pid;
error_log stderr info;
events {}
http {
  access_log off;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  server {
    listen 127.0.0.1:%s ssl;
    ssl_protocols TLSv1.3;
    ssl_certificate %s;
    ssl_certificate_key %s;
    ssl_client_certificate %s;
    ssl_verify_client on;
    ssl_verify_depth 9;
    error_page 495 496 @refused;
    location / { return 200 "ssl_client_verify=$ssl_client_verify\n"; }
    location @refused { return 400 "ssl_client_verify=$ssl_client_verify\n"; }
  }
}
`

// Nginx refuses the request; the handshake only if it can't read the chain or
// the key does not fit.
func Nginx(t stage.T) Verifier {
	t.Helper()
	path := stage.Find(t, "ICP_TEST_NGINX", "nginx", "/usr/sbin/nginx")
	r := rules{
		command: func(t stage.T, s setup) *exec.Cmd {
			config := filepath.Join(s.dir, "nginx.conf")
			write(t, config, fmt.Appendf(nil, nginxConfig, s.port, s.certificate, s.key, s.anchors))
			return exec.Command(path, "-p", s.dir, "-e", "stderr", "-c", config)
		},
		accepted: `^HTTP/1.1 200 OK\r\n(?s:.*)^ssl_client_verify=SUCCESS\n`,
		refused: `^HTTP/1.1 400 Bad Request\r\n(?s:.*)^ssl_client_verify=(FAILED:.*|NONE)\n|` +
			`SSL_do_handshake\(\) failed \((.*)\) while SSL handshaking.*\n`,
	}
	return r.verifier("nginx", version(t, path, "-v"))
}
