// Package envoy starts a real Envoy for tests and asks its admin port what it
// holds and counts.
package envoy

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/authsec-ai/icp/e2e/stage"
)

// Envoy is a running Envoy. It ends with the test.
type Envoy struct {
	*stage.Process
	AdminPort int // on loopback
}

// Options adjust Start.
type Options struct {
	// UID is the user, and the group, that Envoy runs as; 0 is the test's own.
	// Only root may choose another.
	UID     uint32
	Workers int // threads; 0 means 1
}

const patience = 30 * time.Second

// Start runs Envoy with a configuration, YAML, and waits until its admin port
// answers; its listeners may open later. The configuration must have an admin
// address on loopback, whose port may be 0 for a free one, and the user must be
// allowed to read the files it names.
func Start(t stage.T, config string, o Options) *Envoy {
	t.Helper()
	another := o.UID != 0 && int(o.UID) != os.Geteuid()
	if another && os.Geteuid() != 0 {
		t.Fatalf("start Envoy as user %d: run the test as root", o.UID)
	}
	program := open(t)
	defer program.Close()
	admin := filepath.Join(stage.Folder(t), "admin")
	// By descriptor: another user may not be allowed to walk to the program.
	cmd := exec.Command("/proc/self/fd/3", "--config-yaml", config, "--admin-address-path", admin,
		"--disable-hot-restart", "--concurrency", strconv.Itoa(max(1, o.Workers)), "--log-level", "info")
	cmd.ExtraFiles = []*os.File{program}
	cmd.Dir = "/"
	if another {
		if err := os.Chown(filepath.Dir(admin), int(o.UID), int(o.UID)); err != nil {
			t.Fatalf("let Envoy's user write: %v", err)
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: o.UID, Gid: o.UID}}
	}
	e := &Envoy{Process: stage.Start(t, "envoy", cmd)}
	e.WaitReady(t, patience, func() (err error) {
		if e.AdminPort, err = readPort(admin); err != nil {
			return err
		}
		_, err = e.Admin("/server_info")
		return err
	})
	return e
}

// readPort reads an address that Envoy has written.
func readPort(path string) (int, error) {
	address, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("find Envoy's admin port: %w", err)
	}
	_, port, err := net.SplitHostPort(string(address))
	if err != nil {
		return 0, fmt.Errorf("find Envoy's admin port: %w", err)
	}
	return strconv.Atoi(port)
}

// open opens Envoy itself, also where the command of that name is the script of
// the Python package that carries it.
func open(t stage.T) *os.File {
	t.Helper()
	path := stage.Find(t, "ICP_TEST_ENVOY", "envoy", filepath.Join(stage.Root(t), ".work/venv/bin/envoy"))
	carried := filepath.Join(filepath.Dir(path), "../lib/python3*/site-packages/envoy/_bin/envoy")
	if matches, err := filepath.Glob(carried); err == nil && len(matches) > 0 {
		path = matches[0]
	}
	program, err := os.Open(path)
	if err != nil {
		t.Fatalf("open Envoy: %v; run 'make deps'", err)
	}
	return program
}
