package kubernetes

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/authsec-ai/icp/e2e/stage"
)

// Pod is a pod as the API server knows it.
type Pod struct {
	Namespace, Name, UID string
	ServiceAccount       string
	Labels               map[string]string
	IP                   string
	Phase                string // "Pending", "Running", "Succeeded", "Failed"
	QOS                  string // "Guaranteed", "Burstable", "BestEffort"
	Ready                bool
	Ending               bool // someone has deleted it
	Containers           []Container
}

// Cgroup gives the path of the control group of the pod's first container, as the
// node sees it.
func (p Pod) Cgroup() string {
	class := strings.ToLower(p.QOS) + "/"
	if p.QOS == "Guaranteed" {
		class = ""
	}
	return "/kubepods/" + class + "pod" + p.UID + "/" + p.Containers[0].ID
}

// Container is one of a pod's.
type Container struct {
	Name    string
	ID      string // 64 hex digits; empty before it is made
	Image   string
	ImageID string // "sha256:…" of an imported image
}

// Pods gives a namespace's pods that a label selector chooses ("app=web", empty
// for all), by name.
func (c *ControlPlane) Pods(t stage.T, namespace, selector string) []Pod {
	t.Helper()
	var list struct{ Items []podObject }
	c.must(t, http.MethodGet, "/api/v1/namespaces/"+namespace+"/pods?labelSelector="+url.QueryEscape(selector), nil, &list)
	var pods []Pod
	for _, item := range list.Items {
		pods = append(pods, item.pod())
	}
	slices.SortFunc(pods, func(a, b Pod) int { return cmp.Compare(a.Name, b.Name) })
	return pods
}

// podObject is what is read of Kubernetes' own form.
type podObject struct {
	Metadata struct {
		Namespace, Name, UID string
		Labels               map[string]string
		DeletionTimestamp    string
	}
	Spec   struct{ ServiceAccountName string }
	Status struct {
		Phase, PodIP, QOSClass string
		Conditions             []struct{ Type, Status string }
		ContainerStatuses      []struct{ Name, ContainerID, Image, ImageID string }
	}
}

func (o podObject) pod() Pod {
	p := Pod{
		Namespace: o.Metadata.Namespace, Name: o.Metadata.Name, UID: o.Metadata.UID, Labels: o.Metadata.Labels,
		ServiceAccount: o.Spec.ServiceAccountName, IP: o.Status.PodIP, Phase: o.Status.Phase, QOS: o.Status.QOSClass,
		Ending: o.Metadata.DeletionTimestamp != "",
	}
	for _, condition := range o.Status.Conditions {
		p.Ready = p.Ready || condition.Type == "Ready" && condition.Status == "True"
	}
	for _, s := range o.Status.ContainerStatuses {
		p.Containers = append(p.Containers, Container{s.Name, strings.TrimPrefix(s.ContainerID, "containerd://"), s.Image, s.ImageID})
	}
	return p
}

// WaitPod waits until exactly one pod of a namespace that the selector chooses
// is ready, and gives it.
func (c *Cluster) WaitPod(t stage.T, namespace, selector string) Pod {
	t.Helper()
	return c.WaitPods(t, namespace, selector, 1)[0]
}

// WaitPods waits until there are exactly n pods of a namespace that the selector
// chooses, all ready, and gives them by name. Those that someone has deleted do
// not count.
func (c *Cluster) WaitPods(t stage.T, namespace, selector string, n int) []Pod {
	t.Helper()
	for deadline := time.Now().Add(startLimit); ; time.Sleep(50 * time.Millisecond) {
		pods := slices.DeleteFunc(c.Pods(t, namespace, selector), func(p Pod) bool { return p.Ending })
		if len(pods) == n && !slices.ContainsFunc(pods, func(p Pod) bool { return !p.Ready }) {
			return pods
		}
		if time.Now().After(deadline) {
			t.Fatalf("wait for %d ready pods %q in %s: there are %+v; events:\n%s", n, selector, namespace, pods,
				c.Kubectl(t, "get", "events", "-n", namespace))
		}
	}
}

// Namespace makes a namespace and waits until pods can be made in it.
func (c *Cluster) Namespace(t stage.T, name string) {
	t.Helper()
	c.ControlPlane.Namespace(t, name)
	stage.Eventually(t, startLimit, func() error { return c.takesPods(name) })
}

// Logs gives what the containers of a pod have printed.
func (c *Cluster) Logs(t stage.T, pod Pod) string {
	t.Helper()
	return c.Kubectl(t, "logs", "-n", pod.Namespace, pod.Name, "--all-containers")
}

// Exec runs a program in a pod's first container and gives what it printed.
func (c *Cluster) Exec(t stage.T, pod Pod, args ...string) string {
	t.Helper()
	return c.Kubectl(t, append([]string{"exec", "-n", pod.Namespace, pod.Name, "--"}, args...)...)
}

// Delete deletes objects of a namespace, such as "pod/web", and waits until they
// are gone.
func (c *Cluster) Delete(t stage.T, namespace string, objects ...string) {
	t.Helper()
	c.Kubectl(t, append([]string{"delete", "-n", namespace, "--now"}, objects...)...)
}

// Kubelet asks the node's kubelet (GET), with a bearer token or, if that is empty,
// as the administrator, and gives the answer's status and body.
func (c *Cluster) Kubelet(t stage.T, token, path string) (int, string) {
	t.Helper()
	status, text, err := c.kubelet.do(token, http.MethodGet, path, nil, nil)
	if err != nil {
		t.Fatalf("ask kubelet: %v", err)
	}
	return status, text
}
