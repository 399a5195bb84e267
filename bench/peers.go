package main

import (
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"

	"github.com/authsec-ai/icp/bench/internal/plain"
	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/e2e/stage/envoy"
)

// The configurations of other gateways. Each has a thread or a process per core,
// keeps connections to the API open, and writes no log of requests.
var (
	//go:embed peers/nginx.conf
	nginxConfig string
	//go:embed peers/haproxy.cfg
	haproxyConfig string
	//go:embed peers/envoy.yaml
	envoyConfig string
)

const (
	nginxName  = "nginx"
	readerName = "HAProxy with json_query"
)

func nginx(t stage.T) gateway {
	path := stage.Find(t, "ICP_TEST_NGINX", "nginx")
	return gateway{
		name:    nginxName,
		path:    peerPath,
		checks:  "certificate; no SPIFFE ID, which it can't read; no model",
		openSSL: true,
		start: func(s *site) (*stage.Process, string) {
			config := s.write("nginx.conf", s.fillIn(nginxConfig))
			cmd := exec.Command(path, "-p", s.Dir, "-e", "stderr", "-c", config)
			return s.launch(nginxName, cmd, s.listens), version(s.t, path)
		},
	}
}

// User is whom nginx is to run as: the files are for this user alone.
func (s *site) User() string {
	if os.Geteuid() == 0 {
		return "root"
	}
	return ""
}

func haproxy(t stage.T) gateway {
	path := stage.Find(t, "ICP_TEST_HAPROXY", "haproxy")
	return gateway{
		name:     "HAProxy",
		path:     peerPath,
		checks:   "certificate; SPIFFE ID once for each connection, as bytes of the certificate; no model",
		checksID: true, openSSL: true,
		start: func(s *site) (*stage.Process, string) {
			config := s.write(s.Name+".cfg", s.fillIn(haproxyConfig))
			return s.launch(s.Name, exec.Command(path, "-db", "-f", config), s.listens), version(s.t, path)
		},
	}
}

// haproxyReading has buffers that bodies fit in, so it stands for the POST alone.
func haproxyReading(t stage.T) gateway {
	g := haproxy(t)
	g.name, g.checks = readerName, "the same, and the model by json_query"
	g.readsModel, g.onlyPosts = true, true
	return g
}

// CallerDER is the caller's ID as a name of type URI in a certificate, DER, in
// hexadecimal.
func (s *site) CallerDER() string { return fmt.Sprintf("86%02X%X", len(s.CallerID), s.CallerID) }

func envoyProxy() gateway {
	return gateway{
		name:     "Envoy",
		path:     peerPath,
		checks:   "certificate; SPIFFE ID of each request by its RBAC filter; no model",
		checksID: true,
		start: func(s *site) (*stage.Process, string) {
			e := envoy.Start(s.t, string(s.fillIn(envoyConfig)), envoy.Options{Workers: s.Cores})
			e.WaitReady(s.t, patience, s.listens)
			v, err := e.Version()
			if err != nil {
				s.t.Fatalf("%v", err)
			}
			return e.Process, v
		},
	}
}

func plainProxy() gateway {
	return gateway{
		name:     "plain Go proxy",
		path:     peerPath,
		checks:   "net/http and httputil.ReverseProxy: certificate; SPIFFE ID of each request; no model",
		checksID: true,
		start: func(s *site) (*stage.Process, string) {
			return s.self("plain", peerCommand, plain.Config{
				Listen: s.addr(), CertFile: s.Cert, KeyFile: s.Key, BundleFile: s.Bundle, CallerID: s.CallerID, Upstream: "http://" + s.api(),
			}, s.listens), runtime.Version()
		},
	}
}

var numbers = regexp.MustCompile(`[0-9]+(\.[0-9]+)+`)

// version asks a program for its version.
func version(t stage.T, path string) string {
	return numbers.FindString(stage.Output(t, exec.Command(path, "-v")))
}
