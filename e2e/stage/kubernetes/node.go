package kubernetes

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/authsec-ai/icp/e2e/stage"
)

// runtimeSocket is containerd's, in the machine's own /run.
const runtimeSocket = "/run/containerd/containerd.sock"

// pauseImage is what holds a pod's namespaces.
const pauseImage = "icp.test/pause:1"

// containerdConfig needs the folders of the CNI's programs and configuration.
const containerdConfig = `version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "` + pauseImage + `"
  disable_tcp_service = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = %q
    conf_dir = %q
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
`

// network is the CNI's configuration: a bridge with an address for each pod.
const network = `{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "pods0", "isGateway": true, "hairpinMode": true, "ipam":
    {"type": "host-local", "ranges": [[{"subnet": "` + podNetwork + `"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}`

func (c *Cluster) startContainerd(t stage.T) {
	t.Helper()
	conf := c.makeFolder(t, "cni")
	c.writeFile(t, "cni/pods.conflist", network)
	config := c.writeFile(t, "containerd.toml", fmt.Sprintf(containerdConfig, plugins(t), conf))
	cmd := exec.Command(stage.Find(t, "ICP_TEST_CONTAINERD", "containerd"), "--config", config)
	cmd.Env = nodeEnv()
	containerd := c.Machine.Start(t, "containerd", cmd)
	containerd.WaitReady(t, startLimit, func() error {
		conn, err := net.Dial("unix", fmt.Sprintf("/proc/%d/root%s", containerd.PID, runtimeSocket))
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// plugins gives the folder with the CNI's programs.
func plugins(t stage.T) string {
	t.Helper()
	for _, dir := range []string{os.Getenv("ICP_TEST_CNI"), "/usr/lib/cni", "/opt/cni/bin"} {
		if _, err := os.Stat(filepath.Join(dir, "host-local")); dir != "" && err == nil {
			return dir
		}
	}
	t.Fatalf("the CNI's plugins are not installed: run 'make components', or set ICP_TEST_CNI to their folder")
	return ""
}

// nodeEnv keeps the node's temporary files out of the host's.
func nodeEnv() []string { return append(os.Environ(), "TMPDIR=/var/tmp") }

// Import makes an image, in a tar file, known to the node's containerd.
func (c *Cluster) Import(t stage.T, tar string) {
	t.Helper()
	c.Machine.Output(t, exec.Command(stage.Find(t, "ICP_TEST_CTR", "ctr"), "--address", runtimeSocket, "--namespace", "k8s.io", "images", "import", tar))
}

func (c *Cluster) startKubelet(t stage.T) *stage.Process {
	t.Helper()
	c.pki.server(t, "kubelet", NodeIP, "127.0.0.1", NodeName, "localhost")
	c.pki.client(t, "node", "system:node:"+NodeName, "system:nodes")
	config, err := json.Marshal(c.kubeletConfig())
	if err != nil {
		t.Fatalf("configure kubelet: %v", err)
	}
	cmd := exec.Command(program(t, "kubelet"), "--config="+c.writeFile(t, "kubelet.json", string(config)),
		"--kubeconfig="+c.pki.kubeconfig(t, "node", c.URL), "--hostname-override="+NodeName, "--node-ip="+NodeIP)
	cmd.Env = nodeEnv()
	return c.Machine.Start(t, "kubelet", cmd)
}

type object map[string]any

func (c *Cluster) kubeletConfig() object {
	return object{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"port": kubeletPort, "readOnlyPort": 0,
		"tlsCertFile": c.pki.path("kubelet.crt"), "tlsPrivateKeyFile": c.pki.path("kubelet.key"),
		"authentication": object{
			"anonymous": object{"enabled": false},
			"webhook":   object{"enabled": true},
			"x509":      object{"clientCAFile": c.CAFile},
		},
		"authorization":            object{"mode": "Webhook"},
		"containerRuntimeEndpoint": "unix://" + runtimeSocket,
		"cgroupDriver":             "cgroupfs",
		"failCgroupV1":             false,
		"failSwapOn":               false,
		"protectKernelDefaults":    true, // the settings are covered, not set
		"makeIPTablesUtilChains":   false,
		"volumePluginDir":          "/var/lib/kubelet/volume-plugins",
		// A full disk of the host is not the node's.
		"imageGCHighThresholdPercent": 100,
		"evictionHard": object{"memory.available": "100Mi", "nodefs.available": "0%", "nodefs.inodesFree": "0%",
			"imagefs.available": "0%", "imagefs.inodesFree": "0%"},
	}
}
