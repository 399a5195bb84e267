package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/authsec-ai/icp/bench/internal/meter"
	"github.com/authsec-ai/icp/bench/internal/target"
	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/policy"
)

const (
	proxyName    = "agentauth-proxy"
	nginxName    = "nginx"
	allowedModel = "model-1"

	proxyPath  = "/agentauth-proxy"
	nginxPath  = "/nginx"
	clientPath = "/client"
)

// battery is the gateways and what they need.
type battery struct {
	host     *host
	gateways []runningGateway
	client   identityFiles // of the load generator
}

// runningGateway is one that is measured.
type runningGateway struct {
	name    string
	pid     int
	address string
	id      string // SPIFFE ID that it shows
	idle    meter.Memory
}

// startGateways runs server, agent, the API and both gateways in front of it.
func (h *host) startGateways(ctx context.Context) (*battery, error) {
	nginx, err := stage.Locate("ICP_BENCH_NGINX", "nginx")
	if err != nil {
		return nil, err
	}
	c, n, err := h.startNode(ctx)
	if err != nil {
		return nil, err
	}
	for path, selector := range map[string]string{
		clientPath: ownSelector(), nginxPath: ownSelector(), proxyPath: "unix:path:" + filepath.Join(h.bin, proxyName),
	} {
		if _, err := c.entry(ctx, nodeName, path, selector); err != nil {
			return nil, err
		}
	}
	b := &battery{host: h}
	own, err := h.identity(ctx, n, nginxPath)
	if err != nil {
		return nil, err
	}
	if b.client, err = h.identity(ctx, n, clientPath); err != nil {
		return nil, err
	}
	api, err := h.startTarget()
	if err != nil {
		return nil, err
	}
	if err := b.startProxy(n, api); err != nil {
		return nil, err
	}
	return b, b.startNginx(nginx, own, api)
}

// identityFiles are an SVID and its bundle for programs that read files.
type identityFiles struct{ cert, key, bundle string }

// identity takes the SVID with the path from the agent, once it is there.
func (h *host) identity(ctx context.Context, n *node, path string) (identityFiles, error) {
	name := filepath.Base(path)
	files := identityFiles{h.file(name + ".crt"), h.file(name + ".key"), h.file(name + ".bundle")}
	err := n.Await(patience, func() error {
		all, err := workloadapi.FetchX509Context(ctx, workloadapi.WithAddr(n.socket))
		if err != nil {
			return err
		}
		for _, svid := range all.SVIDs {
			if svid.ID.Path() != path {
				continue
			}
			bundle, err := all.Bundles.GetX509BundleForTrustDomain(svid.ID.TrustDomain())
			if err != nil {
				return err
			}
			return files.write(svid, bundle)
		}
		return fmt.Errorf("the agent has no SVID with the path %s", path)
	})
	return files, err
}

func (f identityFiles) write(svid *x509svid.SVID, bundle *x509bundle.Bundle) error {
	cert, key, err := svid.Marshal()
	if err != nil {
		return err
	}
	anchors, err := bundle.Marshal()
	if err != nil {
		return err
	}
	for path, content := range map[string][]byte{f.cert: cert, f.key: key, f.bundle: anchors} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// startTarget runs the API in a process of its own and gives its address.
func (h *host) startTarget() (string, error) {
	addr, err := address()
	if err != nil {
		return "", err
	}
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	_, err = h.launch("target", exec.Command(self, targetCommand, addr), answers("http://"+addr+target.Plain))
	return addr, err
}

// startProxy runs agentauth-proxy with audit and metrics on.
func (b *battery) startProxy(n *node, api string) error {
	addrs, err := addresses(2)
	if err != nil {
		return err
	}
	policies := b.host.file("policies.json")
	if err := writePolicies(policies); err != nil {
		return err
	}
	upstream := "http://" + api
	p, err := b.host.program(proxyName, map[string]any{
		"listen": addrs[0], "metrics_listen": addrs[1], "workload_api": n.socket, "spiffe_id": workloadID(proxyPath),
		"policies": map[string]string{"file": policies}, "audit_file": b.host.file("audit.jsonl"),
		"routes": []map[string]any{
			{"service": "llm", "path_prefix": "/v1", "upstream": upstream, "llm": true},
			{"service": "plain", "path_prefix": target.Plain, "upstream": upstream},
			{"service": "sse", "path_prefix": target.SSE, "upstream": upstream},
		},
	}, answers("http://"+addrs[1]+"/readyz"))
	if err != nil {
		return err
	}
	return b.add(proxyName, p, addrs[0], proxyPath)
}

func writePolicies(path string) error {
	set := policy.Set{Revision: 1}
	for _, service := range []string{"llm", "plain", "sse"} {
		set.Policies = append(set.Policies, policy.Policy{
			Name: service, Effect: policy.Allow, Subjects: []string{workloadID(clientPath)},
			Service: service, Methods: []string{"*"}, Paths: []string{"/**"},
		})
	}
	set.Policies[0].Models = []string{allowedModel}
	raw, err := json.Marshal(set)
	if err != nil {
		return err
	}
	return os.WriteFile(path, raw, 0o600)
}

// nginxConfig takes folder, process user, address, certificate, key, bundle and API.
const nginxConfig = `
daemon off;
worker_processes auto;
pid %[1]s/nginx.pid;
error_log stderr warn;
%[2]s
events { worker_connections 4096; }
http {
  access_log off;
  client_body_temp_path %[1]s/nginx-body;
  proxy_temp_path %[1]s/nginx-proxy;
  fastcgi_temp_path %[1]s/nginx-fastcgi;
  uwsgi_temp_path %[1]s/nginx-uwsgi;
  scgi_temp_path %[1]s/nginx-scgi;
  keepalive_requests 1000000000;
  keepalive_timeout 1h;
  client_body_buffer_size 128k;
  upstream api { server %[7]s; keepalive 64; keepalive_requests 1000000000; }
  server {
    listen %[3]s ssl http2;
    ssl_protocols TLSv1.3;
    ssl_ecdh_curve X25519;
    ssl_session_tickets off;
    ssl_certificate %[4]s;
    ssl_certificate_key %[5]s;
    ssl_client_certificate %[6]s;
    ssl_verify_client on;
    ssl_verify_depth 3;
    location / {
      proxy_pass http://api;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }
    location /sse {
      proxy_pass http://api;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }
  }
}
`

// startNginx runs nginx with one worker per core. It checks certificates
// against the bundle, but no SPIFFE ID and no policy, and keeps no log of
// requests.
func (b *battery) startNginx(path string, own identityFiles, api string) error {
	addr, err := address()
	if err != nil {
		return err
	}
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;" // the files of this run are for this user alone
	}
	config := b.host.file("nginx.conf")
	text := fmt.Sprintf(nginxConfig, b.host.dir, user, addr, own.cert, own.key, own.bundle, api)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	cmd := exec.Command(path, "-p", b.host.dir, "-e", "stderr", "-c", config)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM} // killed at once, it would leave its workers behind
	p, err := b.host.launch(nginxName, cmd, func() error { return stage.Dial(addr) })
	if err != nil {
		return err
	}
	return b.add(nginxName, p, addr, nginxPath)
}

func (b *battery) add(name string, p *stage.Process, addr, path string) error {
	idle, err := meter.Resident(p.PID)
	b.gateways = append(b.gateways, runningGateway{name, p.PID, addr, workloadID(path), idle})
	return err
}

// output runs a process of this section to its end and gives what it printed.
func (b *battery) output(cmd *exec.Cmd) ([]byte, error) {
	var out bytes.Buffer
	cmd.Stdout = &out
	p, err := stage.Launch("load", b.host.dir, cmd)
	if err != nil {
		return nil, err
	}
	if err := p.Err(); err != nil {
		return nil, fmt.Errorf("load generator: %w: %s", err, p.Tail(1024))
	}
	return out.Bytes(), nil
}
