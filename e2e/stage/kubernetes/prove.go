package kubernetes

import (
	"fmt"
	"strings"
	"time"

	"github.com/authsec-ai/icp/e2e/stage"
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
// that connects to its socket, by the kernel's word, from the others, and that
// each pod's projected token is that pod's, for its audience alone.
func ProveCluster(t stage.T) stage.Proof {
	t.Helper()
	c := StartCluster(t)
	probe := image.OfProbe(t, "icp.test/probe:1", nil)
	c.Import(t, probe.File)
	socket := filepath.Join(c.HostPath, "agent.sock")
	agent := c.Machine.Start(t, "agent", exec.Command(image.Probe(t), "listen", socket))
	c.Namespace(t, "demo")
	c.Apply(t, fmt.Sprintf(deployment, c.HostPath))
	pods := c.WaitPods(t, "demo", "app=web", 2)
	for i, pod := range pods {
		stage.Eventually(t, startLimit, func() error { return seen(agent, pod) })
		token := c.Exec(t, pod, "/probe", "cat", "/run/secrets/icp/token")
		mine, others := c.Review(t, token, "icp"), c.Review(t, token, "other")
		if uids := mine.Extra["authentication.kubernetes.io/pod-uid"]; !slices.Equal(uids, []string{pod.UID}) || uids[0] == pods[1-i].UID {
			t.Fatalf("the projected token of pod %s is not that pod's: %+v", pod.UID, mine)
		}
		if others.Authenticated || !strings.Contains(others.Error, "invalid for the target audiences") {
			t.Fatalf("a projected token is not refused for its audience: %+v", others)
		}
	}
	return stage.Proof{Version: c.Version, Ready: c.NodeReady, Fact: fmt.Sprintf(
		"%s, %s: peer in %s is pod %s, not %s; token bound to it, refused for another audience", c.kubeletVersion(t), c.Runtime, cgroup(pods[0]), pods[0].Name, pods[1].Name)}
}
