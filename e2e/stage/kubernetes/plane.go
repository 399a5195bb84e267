package kubernetes

import (
	"crypto/ecdsa"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/authsec-ai/icp/e2e/stage"
)

// ControlPlane is a real kube-apiserver on an etcd of its own, with RBAC and
// signed ServiceAccount tokens.
type ControlPlane struct {
	URL        string            // https://127.0.0.1:PORT
	CAFile     string            // PEM; verifies the API server
	Kubeconfig string            // a file; makes its user an administrator
	CertFile   string            // PEM; the administrator's certificate
	KeyFile    string            // PEM; the administrator's key
	Version    string            // as the API server says, "v1.36.3"
	SigningKey *ecdsa.PrivateKey // of ServiceAccount tokens
	Ready      time.Duration     // from etcd's start to the API server's first good answer

	APIServer *stage.Process // another one after Restart

	site site
	etcd string // its URL
	home string // kubectl's
	pki  *pki
	api  rest
}

// Issuer is the issuer of ServiceAccount tokens, and the audience of those that
// are for the API server itself.
const Issuer = "https://kubernetes.default.svc.cluster.local"

// startLimit bounds each component's start on a machine with much else to do.
const startLimit = 2 * time.Minute

// StartControlPlane starts a control plane on this host's loopback, as an
// unprivileged user. It has no controllers: a new namespace gets no "default"
// ServiceAccount, a Deployment no pods. A pod needs no ServiceAccount to be
// admitted.
func StartControlPlane(t stage.T) *ControlPlane {
	t.Helper()
	return startControlPlane(t, site{
		start: stage.Start, port: stage.FreePort(t), ip: "127.0.0.1",
		flags: []string{"--endpoint-reconciler-type=none", "--disable-admission-plugins=ServiceAccount"},
	})
}

// site is where a control plane runs.
type site struct {
	start func(stage.T, string, *exec.Cmd) *stage.Process
	port  int      // of the API server
	ip    string   // of the API server, as nodes see it
	flags []string // more of them for the API server
}

func startControlPlane(t stage.T, s site) *ControlPlane {
	t.Helper()
	dir := stage.Folder(t)
	c := &ControlPlane{URL: "https://" + loopback(s.port), site: s, home: dir}
	c.makeCredentials(t)
	from := time.Now()
	c.etcd = startEtcd(t, s, filepath.Join(dir, "etcd"))
	c.startAPIServer(t)
	c.Ready = time.Since(from)
	return c
}

func (c *ControlPlane) startAPIServer(t stage.T) {
	t.Helper()
	c.APIServer = c.site.start(t, "kube-apiserver", unprivileged(t, program(t, "kube-apiserver"), c.serverFlags()...))
	t.Cleanup(c.APIServer.Kill) // asked politely, it would wait for those who watch
	c.APIServer.WaitReady(t, startLimit, c.answers)
}

// Restart kills the API server, if it is there, and starts it again with the same
// address and objects. The new one ends with t.
func (c *ControlPlane) Restart(t stage.T) {
	t.Helper()
	c.APIServer.Kill()
	c.startAPIServer(t)
}

// makeCredentials writes what the servers and the clients prove themselves with.
func (c *ControlPlane) makeCredentials(t stage.T) {
	t.Helper()
	c.pki = newPKI(t, filepath.Join(c.home, "pki"))
	c.CAFile = c.pki.path("ca.crt")
	c.pki.server(t, "apiserver", "127.0.0.1", c.site.ip, serviceIP, "localhost", "kubernetes.default.svc")
	c.pki.client(t, "admin", "admin", "system:masters")
	c.pki.client(t, "apiserver-kubelet", "apiserver-kubelet", "system:masters")
	c.CertFile, c.KeyFile = c.pki.path("admin.crt"), c.pki.path("admin.key")
	c.SigningKey = newKey(t)
	c.pki.writeKey(t, "serviceaccounts", c.SigningKey)
	c.pki.writePublicKey(t, "serviceaccounts", &c.SigningKey.PublicKey)
	c.Kubeconfig = c.pki.kubeconfig(t, "admin", c.URL)
	c.api = newREST(t, c.URL, c.pki, nil)
}

// startEtcd gives etcd's URL. It is not waited for: the API server does.
func startEtcd(t stage.T, s site, data string) string {
	t.Helper()
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatalf("start etcd: %v", err)
	}
	if err := give(data); err != nil {
		t.Fatalf("start etcd: %v", err)
	}
	clients, peers := "http://"+loopback(stage.FreePort(t)), "http://"+loopback(stage.FreePort(t))
	s.start(t, "etcd", unprivileged(t, stage.Find(t, "ICP_TEST_ETCD", "etcd"),
		"--data-dir="+data, "--unsafe-no-fsync", // it need not outlive the test
		"--heartbeat-interval=10", "--election-timeout=100", // it has nobody to wait for
		"--listen-client-urls="+clients, "--advertise-client-urls="+clients, "--listen-peer-urls="+peers))
	return clients
}

// The cluster's networks: of services, where serviceIP is the API server's, and
// of pods.
const (
	serviceNetwork = "10.96.0.0/16"
	serviceIP      = "10.96.0.1"
	podNetwork     = "10.244.0.0/16"
)

func (c *ControlPlane) serverFlags() []string {
	s := c.site
	return append([]string{
		"--etcd-servers=" + c.etcd,
		"--bind-address=" + bindAddress(s.ip), fmt.Sprintf("--secure-port=%d", s.port), "--advertise-address=" + s.ip,
		"--tls-cert-file=" + c.pki.path("apiserver.crt"), "--tls-private-key-file=" + c.pki.path("apiserver.key"),
		"--client-ca-file=" + c.CAFile,
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--service-account-issuer=" + Issuer,
		"--service-account-key-file=" + c.pki.path("serviceaccounts.pub"),
		"--service-account-signing-key-file=" + c.pki.path("serviceaccounts.key"),
		"--service-cluster-ip-range=" + serviceNetwork,
		"--kubelet-client-certificate=" + c.pki.path("apiserver-kubelet.crt"),
		"--kubelet-client-key=" + c.pki.path("apiserver-kubelet.key"),
		"--kubelet-certificate-authority=" + c.CAFile,
		"--kubelet-preferred-address-types=InternalIP",
		"--allow-privileged=true",
		"--feature-gates=SizeBasedListCostEstimate=false", // it fills the log where etcd is older than 3.4.31
	}, s.flags...)
}

// bindAddress gives where a server listens that others reach at ip: a machine's
// is all of the machine's addresses.
func bindAddress(ip string) string {
	if ip == "127.0.0.1" {
		return ip
	}
	return "0.0.0.0"
}

// answers says whether the API server is ready and has made what every cluster
// has.
func (c *ControlPlane) answers() error {
	for _, path := range []string{"/readyz", "/api/v1/namespaces/default"} {
		if err := c.has(path, nil); err != nil {
			return err
		}
	}
	var version struct{ GitVersion string }
	err := c.has("/version", &version)
	c.Version = version.GitVersion
	return err
}

// has says whether the API server has something at path, and reads it into answer.
func (c *ControlPlane) has(path string, answer any) error {
	status, text, err := c.api.do("", http.MethodGet, path, nil, answer)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("%s: %d %s", path, status, strings.TrimSpace(text))
	}
	return err
}
