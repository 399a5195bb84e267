package kubernetes_test

import (
	"crypto/ecdsa"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/e2e/stage/kubernetes"
)

func TestProveControlPlane(t *testing.T) {
	p := kubernetes.ProveControlPlane(t)
	t.Logf("%s, ready after %s: %s", p.Version, p.Ready, p.Fact)
}

func TestControlPlane(t *testing.T) {
	c := kubernetes.StartControlPlane(t)
	t.Run("DryRun", func(t *testing.T) { testDryRun(t, c) })
	t.Run("RBAC", func(t *testing.T) { testRBAC(t, c) })
	t.Run("Tokens", func(t *testing.T) { testTokens(t, c) })
	t.Run("Unprivileged", func(t *testing.T) {
		info, err := os.Stat(fmt.Sprintf("/proc/%d", c.APIServer.PID))
		if err != nil {
			t.Fatal(err)
		}
		if uid := info.Sys().(*syscall.Stat_t).Uid; uid == 0 {
			t.Error("the API server runs as root")
		}
	})
	t.Run("Restart", func(t *testing.T) { testRestart(t, c) })
}

const configMap = `{apiVersion: v1, kind: ConfigMap, metadata: {name: %s, namespace: default}, %s: {a: b}}`

// testDryRun checks that the server judges objects without keeping them.
func testDryRun(t *testing.T, c *kubernetes.ControlPlane) {
	const path = "/api/v1/namespaces/default/configmaps/"
	c.Apply(t, fmt.Sprintf(configMap, "dry", "data"), "--dry-run=server")
	if status, _ := c.Do(t, "", http.MethodGet, path+"dry", nil, nil); status != http.StatusNotFound {
		t.Errorf("after a dry run the object is there: %d", status)
	}
	wrong := fmt.Sprintf(configMap, "dry", "date")
	if _, err := c.TryKubectl(t, wrong, "apply", "--server-side", "--dry-run=server", "-f", "-"); err == nil || !strings.Contains(err.Error(), ".date: field not declared in schema") {
		t.Errorf("an object with a wrong field: %v", err)
	}
	c.Apply(t, fmt.Sprintf(configMap, "wet", "data"))
	patch := map[string]any{"data": map[string]string{"a": "c"}}
	var kept struct{ Data map[string]string }
	if status, text := c.Do(t, "", http.MethodPatch, path+"wet", patch, &kept); status != http.StatusOK || kept.Data["a"] != "c" {
		t.Errorf("a patch of the object: %d %s", status, text)
	}
	if got := c.Kubectl(t, "get", "configmap", "wet", "-o", "jsonpath={.data.a}"); got != "c" {
		t.Errorf("kubectl sees %q", got)
	}
}

// testRBAC checks that a ServiceAccount may do what a role says and no more.
func testRBAC(t *testing.T, c *kubernetes.ControlPlane) {
	c.Namespace(t, "rbac")
	c.Apply(t, `{apiVersion: v1, kind: ServiceAccount, metadata: {name: reader, namespace: rbac}}`)
	token := c.Token(t, "rbac", "reader", "", 0)
	ask := func(token string) int {
		status, _ := c.Do(t, token, http.MethodGet, "/api/v1/nodes", nil, nil)
		return status
	}
	if status := ask("no token"); status != http.StatusUnauthorized {
		t.Errorf("a wrong token: %d", status)
	}
	if status := ask(c.Token(t, "rbac", "reader", "other", 0)); status != http.StatusUnauthorized {
		t.Errorf("a token for someone else: %d", status)
	}
	if status := ask(token); status != http.StatusForbidden {
		t.Errorf("without a role: %d", status)
	}
	c.Kubectl(t, "create", "clusterrole", "reader", "--verb=list", "--resource=nodes")
	c.Kubectl(t, "create", "clusterrolebinding", "reader", "--clusterrole=reader", "--serviceaccount=rbac:reader")
	// The authorizer learns of it by a watch.
	eventually(t, func() error {
		if status := ask(token); status != http.StatusOK {
			return fmt.Errorf("with a role: %d", status)
		}
		return nil
	})
}

// testTokens checks that reviews are of the cluster's own tokens alone, and that a
// changed claim counts if the cluster has signed it.
func testTokens(t *testing.T, c *kubernetes.ControlPlane) {
	c.Namespace(t, "tokens")
	c.Apply(t, `{apiVersion: v1, kind: ServiceAccount, metadata: {name: web, namespace: tokens}}`)
	token := c.Token(t, "tokens", "web", "icp", 10*time.Minute)
	r := c.Review(t, token, "icp", "other")
	if !r.Authenticated || r.UID == "" || fmt.Sprint(r.Audiences) != "[icp]" {
		t.Errorf("the cluster's own token: %+v", r)
	}
	if r := c.Review(t, token); r.Authenticated || r.Error == "" {
		t.Errorf("a token that is not for the API server: %+v", r)
	}
	sign := func(key *ecdsa.PrivateKey, name string) kubernetes.Review {
		return c.Review(t, kubernetes.Resign(t, token, key, func(claims map[string]any) {
			claims["kubernetes.io"].(map[string]any)["serviceaccount"].(map[string]any)["uid"] = name
		}), "icp")
	}
	if r := sign(c.SigningKey, r.UID); !r.Authenticated {
		t.Errorf("signed anew: %+v", r)
	}
	if r := sign(c.SigningKey, "gone"); r.Authenticated || !strings.Contains(r.Error, "does not match") {
		t.Errorf("a token of an earlier ServiceAccount of that name: %+v", r)
	}
	c.Kubectl(t, "delete", "serviceaccount", "web", "-n", "tokens")
	eventually(t, func() error {
		if r := c.Review(t, token, "icp"); r.Authenticated {
			return fmt.Errorf("a token of a deleted ServiceAccount: %+v", r)
		}
		return nil
	})
}

// testRestart checks that nobody answers for an API server that is gone, and that
// the next one knows the same tokens.
func testRestart(t *testing.T, c *kubernetes.ControlPlane) {
	c.Namespace(t, "restart")
	c.Apply(t, `{apiVersion: v1, kind: ServiceAccount, metadata: {name: web, namespace: restart}}`)
	token := c.Token(t, "restart", "web", "icp", 0)
	c.APIServer.Kill()
	if err := stage.Dial(strings.TrimPrefix(c.URL, "https://")); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("after its end: %v, want a refusal", err)
	}
	c.Restart(t)
	if r := c.Review(t, token, "icp"); !r.Authenticated {
		t.Errorf("a token from before: %+v", r)
	}
}
