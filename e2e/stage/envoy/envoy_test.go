package envoy_test

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/e2e/stage/envoy"
)

func TestProve(t *testing.T) {
	proof := envoy.Prove(t)
	t.Logf("%s %s %s", proof.Version, proof.Ready, proof.Fact)
}

const adminOnly = `admin: { address: { socket_address: { address: 127.0.0.1, port_value: 0 } } }`

// TestUser starts an Envoy as another user, without any certificate.
func TestUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test starts Envoy as another user: run it as root")
	}
	const nobody = 65534
	e := envoy.Start(t, adminOnly, envoy.Options{UID: nobody, Workers: 2})
	info, err := os.Stat(fmt.Sprintf("/proc/%d/status", e.PID))
	if err != nil {
		t.Fatal(err)
	}
	if uid := info.Sys().(*syscall.Stat_t).Uid; uid != nobody {
		t.Errorf("envoy runs as user %d", uid)
	}
	if workers := e.Stat(t, "server.concurrency"); workers != 2 {
		t.Errorf("envoy has %d workers", workers)
	}
	if serial, err := e.Serial(); err == nil {
		t.Errorf("envoy has the certificate %s", serial)
	}
	if _, err := e.Admin("/nowhere"); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("asked for what is not there: %v", err)
	}
}

// TestBadConfiguration wants Envoy's own words for what is wrong.
func TestBadConfiguration(t *testing.T) {
	err := stage.Run(t.Context(), func(s *stage.Session) {
		envoy.Start(s, adminOnly+"\nno_such_field: 1", envoy.Options{})
	})
	if err == nil || !strings.Contains(err.Error(), "no_such_field") {
		t.Errorf("error %v", err)
	}
}
