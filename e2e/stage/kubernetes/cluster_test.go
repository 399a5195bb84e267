package kubernetes_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/e2e/stage/door"
	"github.com/authsec-ai/icp/e2e/stage/image"
	"github.com/authsec-ai/icp/e2e/stage/kubernetes"
	"github.com/authsec-ai/icp/e2e/stage/lefttest"
	"github.com/authsec-ai/icp/e2e/stage/peer"
)

func eventually(t *testing.T, check func() error) {
	t.Helper()
	stage.Eventually(t, 2*time.Minute, check)
}

func TestCluster(t *testing.T) {
	before := hostState(t)
	c := kubernetes.StartCluster(t)
	t.Logf("control plane ready after %s, node after %s", c.Ready, c.NodeReady)
	probe := image.OfProbe(t, "icp.test/probe:1", nil)
	c.Import(t, probe.File)
	t.Run("Pod", func(t *testing.T) { testPod(t, c, probe.ID) })
	t.Run("Outside", func(t *testing.T) { testOutside(t, c) })
	t.Run("Agent", func(t *testing.T) { testAgent(t, c) })
	t.Run("Kubelet", func(t *testing.T) { testKubelet(t, c) })
	t.Run("Service", func(t *testing.T) { testService(t, c) })
	t.Run("Another", func(t *testing.T) { testAnother(t, c) })
	if after := hostState(t); after != before {
		t.Errorf("the cluster has changed the host from\n%s\nto\n%s", before, after)
	}
}

// hostState gives what a node would change of a host that it had for itself.
func hostState(t *testing.T) string {
	t.Helper()
	return stage.Output(t, exec.Command("sh", "-c", `
		cd /proc/sys; grep -H . vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_max* net/ipv4/ip_forward
		ip -brief link | grep -E 'node0|pods0|veth'
		ls -d /opt/containerd /etc/cni /run/containerd /var/lib/cni /var/lib/kubelet /var/lib/containerd /var/log/pods /var/log/containers /sys/fs/cgroup/*/kubepods
		exit 0`))
}

// probePod is a pod of the probe.
type probePod struct {
	namespace, name string
	folder          string // of the host, at /shared
	spec            string // more of it, YAML
}

// start makes the pod and waits until it is ready.
func (p probePod) start(t *testing.T, c *kubernetes.Cluster, args ...string) kubernetes.Pod {
	t.Helper()
	command, err := json.Marshal(args)
	if err != nil {
		t.Fatal(err)
	}
	c.Apply(t, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %[2]s, namespace: %[1]s, labels: {app: %[2]s}}
spec:
  terminationGracePeriodSeconds: 1
  %[3]s
  containers: [{name: main, image: "icp.test/probe:1", args: %[4]s, volumeMounts: [{name: shared, mountPath: /shared}]}]
  volumes: [{name: shared, hostPath: {path: %[5]q, type: Directory}}]
`, p.namespace, p.name, p.spec, command, p.folder))
	return c.WaitPod(t, p.namespace, "app="+p.name)
}

// testPod checks what is known of a pod, and what can be done with one.
func testPod(t *testing.T, c *kubernetes.Cluster, imageID string) {
	c.Namespace(t, "pods")
	p := probePod{"pods", "web", c.HostPath, ""}.start(t, c, "http", ":8080")
	if container := p.Containers[0]; p.ServiceAccount != "default" || p.Phase != "Running" || container.Name != "main" ||
		container.ImageID != imageID || len(container.ID) != 64 || !strings.HasSuffix(p.Cgroup(), p.UID+"/"+container.ID) {
		t.Errorf("the pod is %+v", p)
	}
	if got := strings.TrimSpace(c.Exec(t, p, "/probe", "get", "http://"+p.IP+":8080")); got != p.Name {
		t.Errorf("the pod answers %q", got)
	}
	if others := c.Pods(t, "pods", "app=other"); len(others) != 0 {
		t.Errorf("pods with another label: %+v", others)
	}
	c.Delete(t, "pods", "pod/web")
	if left := c.Pods(t, "pods", ""); len(left) != 0 {
		t.Errorf("after its deletion there is %+v", left)
	}
}

// testOutside checks that a pod reaches a socket outside of the machine, and that
// its control group is below the machine's there.
func testOutside(t *testing.T, c *kubernetes.Cluster) {
	outside := door.Open(t)
	c.Namespace(t, "outside")
	p := probePod{"outside", "caller", outside.Dir, ""}.start(t, c, "connect", "/shared/"+outside.Name, "hello")
	if who, want := outside.Hear(t, "hello"), "/"+c.Machine.Name+p.Cgroup(); who.Cgroup() != want {
		t.Errorf("the peer is %+v, want it in %s", who, want)
	}
	eventually(t, func() error {
		if printed := c.Logs(t, p); !strings.Contains(printed, p.UID) {
			return fmt.Errorf("the pod was told %q", printed)
		}
		return nil
	})
}

// testAgent checks that a pod that sees the node's processes recognizes another.
func testAgent(t *testing.T, c *kubernetes.Cluster) {
	c.Namespace(t, "agent")
	agent := probePod{"agent", "agent", c.HostPath, "hostPID: true\n  hostNetwork: true"}.start(t, c, "listen", "/shared/agent.sock")
	caller := probePod{"agent", "caller", c.HostPath, "securityContext: {runAsUser: 1234}"}.start(t, c, "connect", "/shared/agent.sock")
	eventually(t, func() error {
		for line := range strings.Lines(c.Logs(t, agent)) {
			var who peer.Peer
			if json.Unmarshal([]byte(line), &who) == nil && who.Cgroup() == caller.Cgroup() && who.UID == 1234 {
				return nil
			}
		}
		return fmt.Errorf("the agent has not seen %s; it printed %s", caller.Cgroup(), c.Logs(t, agent))
	})
}

// testKubelet checks whom the node's kubelet tells of its pods.
func testKubelet(t *testing.T, c *kubernetes.Cluster) {
	c.Namespace(t, "kubelet")
	token := c.Token(t, "kubelet", "default", "", 0)
	if status, _ := c.Kubelet(t, "no token", "/pods"); status != http.StatusUnauthorized {
		t.Errorf("a wrong token: %d", status)
	}
	if status, _ := c.Kubelet(t, token, "/pods"); status != http.StatusForbidden {
		t.Errorf("without a role: %d", status)
	}
	if status, text := c.Kubelet(t, "", "/pods"); status != http.StatusOK || !strings.Contains(text, `"PodList"`) {
		t.Errorf("the administrator: %d %s", status, text)
	}
	// Kubelet keeps a refusal for half a minute: the role is another's.
	c.Kubectl(t, "create", "serviceaccount", "reader", "-n", "kubelet")
	c.Kubectl(t, "create", "clusterrole", "kubelet-reader", "--verb=get", "--resource=nodes/pods")
	c.Kubectl(t, "create", "clusterrolebinding", "kubelet-reader", "--clusterrole=kubelet-reader", "--serviceaccount=kubelet:reader")
	reader := c.Token(t, "kubelet", "reader", "", 0)
	if status, text := c.Kubelet(t, reader, "/pods"); status != http.StatusOK {
		t.Errorf("with a role: %d %s", status, text)
	}
	if status, _ := c.Kubelet(t, reader, "/configz"); status != http.StatusForbidden {
		t.Errorf("beyond the role: %d", status)
	}
	const readOnly = "127.0.0.1:10255"
	if _, err := c.Machine.DialContext(t.Context(), "tcp", readOnly); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the read-only port: %v, want a refusal", err)
	}
}

// testService checks that the API server is reached at its service's address, from
// the node and from a pod.
func testService(t *testing.T, c *kubernetes.Cluster) {
	ca, err := os.ReadFile(c.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	conn, err := c.Machine.DialContext(t.Context(), "tcp", "10.96.0.1:443")
	if err != nil {
		t.Fatalf("from the node: %v", err)
	}
	defer conn.Close()
	client := tls.Client(conn, &tls.Config{RootCAs: roots, ServerName: "kubernetes.default.svc"})
	if err := client.HandshakeContext(t.Context()); err != nil {
		t.Errorf("from the node: %v", err)
	}
	c.Namespace(t, "service")
	p := probePod{"service", "caller", c.HostPath, ""}.start(t, c, "pause")
	out, err := c.TryKubectl(t, "", "exec", "-n", "service", p.Name, "--", "/probe", "get", "http://10.96.0.1:443")
	if err == nil || !strings.Contains(out, "HTTP request to an HTTPS server") {
		t.Errorf("from a pod: %q, %v; want the server's complaint", out, err)
	}
}

// testAnother proves a second cluster, with the same addresses, beside the first.
func testAnother(t *testing.T, c *kubernetes.Cluster) {
	p := kubernetes.ProveCluster(t)
	t.Logf("%s, ready after %s: %s", p.Version, p.Ready, p.Fact)
	if pods := c.Pods(t, "demo", ""); len(pods) != 0 {
		t.Errorf("the second cluster's pods are in the first: %+v", pods)
	}
}

// TestNothingStays kills a test binary in the midst of a control plane and a
// cluster with a pod.
func TestNothingStays(t *testing.T) {
	lefttest.Killed(t, func(t *testing.T) {
		kubernetes.StartControlPlane(t)
		c := kubernetes.StartCluster(t)
		c.Import(t, image.OfProbe(t, "icp.test/probe:1", nil).File)
		probePod{"default", "stayer", c.HostPath, ""}.start(t, c, "pause")
	}, "kube-apiserver", "kubelet", "containerd-shim", "/probe pause", "folder /tmp/", "control group ")
}
