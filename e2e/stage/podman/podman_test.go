package podman_test

import (
	"testing"

	"github.com/authsec-ai/icp/e2e/stage/podman"
)

func TestProve(t *testing.T)   { t.Log(podman.Prove(t)) }
func TestProveV2(t *testing.T) { t.Log(podman.ProveV2(t)) }
