package kubernetes

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/e2e/stage/image"
)

// Cluster is a whole Kubernetes of one node, in a machine of its own: control
// plane, controllers, scheduler, kubelet, containerd and a network for pods. Pods
// reach the API server at its service's address; there is no kube-proxy for other
// services, and no DNS.
type Cluster struct {
	*ControlPlane
	Machine    *stage.Machine // the node; what is started in it is a process of the node's
	HostPath   string         // a folder with the same path here, in the node and for hostPath volumes
	KubeletURL string         // reached from inside the machine, also at 127.0.0.1; verified by CAFile
	NodeReady  time.Duration  // from etcd's start to a node that takes pods

	folder  string // the node's: configuration and disk
	kubelet rest
}

// The node's name, its address in the machine's network, and its kubelet's port.
const (
	NodeName    = "node"
	NodeIP      = "10.99.0.1"
	kubeletPort = 10250
)

// StartCluster starts a cluster and waits until its node takes pods. Any number
// may run at once. It needs root.
func StartCluster(t stage.T) *Cluster {
	t.Helper()
	pause := image.OfProbe(t, pauseImage, nil)
	folder, shared := stage.Folder(t), stage.Folder(t)
	c := &Cluster{Machine: stage.NewMachine(t, stage.CgroupsHost), folder: folder, HostPath: shared,
		KubeletURL: fmt.Sprintf("https://%s:%d", NodeIP, kubeletPort)}
	port := c.Machine.Publish(t)
	c.isolate(t)
	c.connect(t, port)
	from := time.Now()
	c.startContainerd(t)
	c.ControlPlane = startControlPlane(t, site{start: c.Machine.Start, port: port, ip: NodeIP})
	c.kubelet = newREST(t, c.KubeletURL, c.pki, c.Machine.DialContext)
	c.Import(t, pause.File)
	c.startControllers(t)
	kubelet := c.startKubelet(t)
	kubelet.WaitReady(t, startLimit, c.nodeTakesPods)
	c.NodeReady = time.Since(from)
	return c
}

// isolate gives the node a disk of its own, where layers of images can lie, which
// they can't on a machine's /var, and the settings that kubelet demands of the
// kernel: it would change them for the whole host.
func (c *Cluster) isolate(t stage.T) {
	t.Helper()
	c.Machine.Cover(t, "/var/lib", c.makeFolder(t, "disk"))
	for setting, value := range map[string]string{
		"vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1",
		"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
	} {
		own := c.writeFile(t, strings.ReplaceAll(setting, "/", "."), value+"\n")
		c.Machine.Cover(t, "/proc/sys/"+setting, own)
	}
}

// makeFolder makes a folder in the node's and gives its path.
func (c *Cluster) makeFolder(t stage.T, name string) string {
	t.Helper()
	path := filepath.Join(c.folder, name)
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatalf("prepare a node: %v", err)
	}
	return path
}

// writeFile writes a file in the node's folder and gives its path.
func (c *Cluster) writeFile(t stage.T, name, content string) string {
	t.Helper()
	path := filepath.Join(c.folder, name)
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatalf("prepare a node: %v", err)
	}
	return path
}

// connect gives the node an address that is not loopback, as kubelet demands, and
// the API server the address of its service.
func (c *Cluster) connect(t stage.T, port int) {
	t.Helper()
	redirect := fmt.Sprintf("-d %s -p tcp --dport 443 -j REDIRECT --to-ports %d", serviceIP, port)
	c.Machine.Output(t, exec.Command("sh", "-ec", strings.Join([]string{
		"ip link add node0 type dummy 2>/dev/null || ip link add node0 type bridge",
		"ip addr add " + NodeIP + "/24 dev node0",
		"ip addr add " + serviceIP + "/32 dev node0",
		"ip link set node0 up",
		"ip route add default via " + NodeIP + " dev node0",
		"iptables -t nat -A PREROUTING " + redirect,
		"iptables -t nat -A OUTPUT " + redirect,
	}, "\n")))
}

// startControllers starts what acts on the API server's objects.
func (c *Cluster) startControllers(t stage.T) {
	t.Helper()
	c.pki.client(t, "scheduler", "system:kube-scheduler")
	c.Machine.Start(t, "kube-controller-manager", unprivileged(t, program(t, "kube-controller-manager"),
		// One client for all controllers, and a fast one: with a client each, a new
		// namespace waits seconds for its ServiceAccount.
		"--kubeconfig="+c.Kubeconfig, "--kube-api-qps=200", "--kube-api-burst=400",
		"--service-account-private-key-file="+c.pki.path("serviceaccounts.key"), "--root-ca-file="+c.CAFile,
		"--leader-elect=false", "--bind-address=127.0.0.1"))
	c.Machine.Start(t, "kube-scheduler", unprivileged(t, program(t, "kube-scheduler"),
		"--kubeconfig="+c.pki.kubeconfig(t, "scheduler", c.URL), "--leader-elect=false", "--bind-address=127.0.0.1"))
}

// nodeTakesPods says whether the node is ready, and pods can be made in the default
// namespace.
func (c *Cluster) nodeTakesPods() error {
	var node struct {
		Spec   struct{ Taints []any }
		Status struct {
			Conditions []struct{ Type, Status, Message string }
		}
	}
	if err := c.has("/api/v1/nodes/"+NodeName, &node); err != nil {
		return err
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type == "Ready" && condition.Status == "True" && len(node.Spec.Taints) == 0 {
			return c.takesPods("default")
		}
	}
	return fmt.Errorf("the node is not ready: %+v", node)
}

// takesPods says whether pods can be made in a namespace.
func (c *Cluster) takesPods(namespace string) error {
	return c.has("/api/v1/namespaces/"+namespace+"/serviceaccounts/default", nil)
}
