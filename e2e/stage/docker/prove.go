package docker

import (
	"time"

	"github.com/authsec-ai/icp/e2e/stage"
)

// Prove shows that a container is known by what the kernel says of a process in
// it, on the host's control groups.
func Prove(t stage.T) stage.Proof { return prove(t, stage.CgroupsHost) }

// ProveV2 is Prove where there is version 2 of control groups alone.
func ProveV2(t stage.T) stage.Proof { return prove(t, stage.CgroupsV2) }

func prove(t stage.T, groups stage.Cgroups) stage.Proof {
	t.Helper()
	from := time.Now()
	e := Start(t, Options{Cgroups: groups})
	ready := time.Since(from)
	if version := e.Do(t, "info", "--format", "{{.CgroupVersion}}"); groups == stage.CgroupsV2 && version != "2" {
		t.Fatalf("the engine says its control groups are of version %s", version)
	}
	return stage.Proof{Version: e.Version(t), Ready: ready, Fact: e.Prove(t, "/docker/")}
}
