package kubernetes_test

import (
	"testing"

	"github.com/authsec-ai/icp/e2e/stage/kubernetes"
)

func TestProveCluster(t *testing.T) {
	p := kubernetes.ProveCluster(t)
	t.Logf("%s, ready after %s: %s", p.Version, p.Ready, p.Fact)
}
