package kubernetes

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/e2e/stage/image"
	"github.com/authsec-ai/icp/e2e/stage/peer"
)

// ProveControlPlane shows that the API server accepts the token that it issued
// to a ServiceAccount, as that ServiceAccount's, and refuses the same one forged,
// expired or for someone else.
func ProveControlPlane(t stage.T) stage.Proof {
	t.Helper()
	c := StartControlPlane(t)
	c.Apply(t, `{apiVersion: v1, kind: Namespace, metadata: {name: demo}}`)
	c.Apply(t, `{apiVersion: v1, kind: ServiceAccount, metadata: {name: web, namespace: demo}}`)
	const user = "system:serviceaccount:demo:web"
	token := c.Token(t, "demo", "web", "icp", 10*time.Minute)
	expire := func(claims map[string]any) { claims["exp"] = time.Now().Add(-time.Minute).Unix() }
	for _, good := range []string{token, Resign(t, token, c.SigningKey, nil)} {
		if r := c.Review(t, good, "icp"); !r.Authenticated || r.User != user || fmt.Sprint(r.Audiences) != "[icp]" {
			t.Fatalf("a ServiceAccount's token is not accepted as its own: %+v", r)
		}
	}
	for _, bad := range []struct{ why, token, audience string }{
		{"error in cryptographic primitive", Resign(t, token, newKey(t), nil), "icp"},
		{"token has expired", Resign(t, token, c.SigningKey, expire), "icp"},
		{"invalid for the target audiences", token, "other"},
	} {
		if r := c.Review(t, bad.token, bad.audience); r.Authenticated || !strings.Contains(r.Error, bad.why) {
			t.Fatalf("a token that is refused with %q: %+v", bad.why, r)
		}
	}
	return stage.Proof{Version: c.Version, Ready: c.Ready,
		Fact: "TokenReview: true token is " + user + "; forged, expired and wrong-audience ones refused"}
}

// ProveCluster shows that a process in the node knows each of a Deployment's pods
// that connects to its socket from the others, by the kernel's word, and that each
// pod's projected token is that pod's, for its audience alone.
func ProveCluster(t stage.T) stage.Proof {
	t.Helper()
	c := StartCluster(t)
	c.Import(t, image.OfProbe(t, "icp.test/probe:1", nil).File)
	agent := c.Machine.Start(t, "agent", exec.Command(image.Probe(t), "listen", filepath.Join(c.HostPath, "agent.sock")))
	c.Namespace(t, "demo")
	c.Apply(t, fmt.Sprintf(deployment, c.HostPath))
	pods := c.WaitPods(t, "demo", "app=web", 2)
	for i, pod := range pods {
		stage.Eventually(t, startLimit, func() error { return recognized(agent, pod, pods[1-i]) })
		proveToken(t, c, pod)
	}
	runtime := c.Kubectl(t, "get", "node", NodeName, "-o", "jsonpath={.status.nodeInfo.containerRuntimeVersion}")
	return stage.Proof{Version: c.Version, Ready: c.NodeReady, Fact: fmt.Sprintf(
		"%s: peer in %s is pod %s, not %s; its token is bound to it and refused elsewhere",
		runtime, filepath.Dir(pods[0].Cgroup()), pods[0].Name, pods[1].Name)}
}

// deployment needs a folder with the agent's socket.
const deployment = `
apiVersion: v1
kind: ServiceAccount
metadata: {name: web, namespace: demo}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: demo}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      serviceAccountName: web
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: icp.test/probe:1
        args: [connect, /agent/agent.sock, $(NAME)]
        env: [{name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
        securityContext: {runAsUser: 1000}
        volumeMounts: [{name: agent, mountPath: /agent}, {name: token, mountPath: /token}]
      volumes:
      - {name: agent, hostPath: {path: %q, type: Directory}}
      - {name: token, projected: {sources: [{serviceAccountToken: {audience: icp, path: token, expirationSeconds: 600}}]}}
`

// recognized says whether the agent has seen the pod, always in the control group
// that the API server's words lead to and never in the other's.
func recognized(agent *stage.Process, pod, other Pod) error {
	met := false
	for line := range strings.Lines(agent.Tail(1 << 20)) {
		var who peer.Peer
		if err := json.Unmarshal([]byte(line), &who); err != nil || who.Said != pod.Name {
			continue // another pod, or a line not yet whole
		}
		met = true
		if group := who.Cgroup(); group != pod.Cgroup() || strings.Contains(group, other.UID) || who.UID != 1000 {
			return fmt.Errorf("pod %+v is seen as %+v", pod, who)
		}
	}
	if !met {
		return fmt.Errorf("the agent has not seen %s; it printed:\n%s", pod.Name, agent.Tail(4096))
	}
	return nil
}

// proveToken checks the token that lies in a pod.
func proveToken(t stage.T, c *Cluster, pod Pod) {
	t.Helper()
	token := c.Exec(t, pod, "/probe", "cat", "/token/token")
	r := c.Review(t, token, "icp")
	if bound := r.Extra["authentication.kubernetes.io/pod-uid"]; r.User != "system:serviceaccount:demo:web" || !slices.Equal(bound, []string{pod.UID}) {
		t.Fatalf("the token of pod %+v is %+v", pod, r)
	}
	if r := c.Review(t, token, "other"); r.Authenticated || !strings.Contains(r.Error, "invalid for the target audiences") {
		t.Fatalf("a pod's token for someone else: %+v", r)
	}
}
