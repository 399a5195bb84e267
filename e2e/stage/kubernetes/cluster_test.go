package kubernetes_test

import (
	"testing"

	"github.com/authsec-ai/icp/e2e/stage/kubernetes"
)

func TestCluster(t *testing.T) {
	c := kubernetes.StartCluster(t)
	t.Logf("control plane ready after %s, node after %s", c.Ready, c.NodeReady)
}
