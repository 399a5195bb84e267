package stage_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/authsec-ai/icp/e2e/stage"
)

// TestKillSparesOthers checks that Kill leaves alone who has got the id of a
// process that has ended. It runs in a machine, where ids are given out as it
// says.
func TestKillSparesOthers(t *testing.T) {
	const inside = "ICP_TEST_INSIDE"
	if os.Getenv(inside) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKillSparesOthers$", "-test.v")
		cmd.Env = append(os.Environ(), inside+"=1")
		if out := stage.NewMachine(t, stage.CgroupsHost).Output(t, cmd); !strings.Contains(out, "--- PASS: TestKillSparesOthers") {
			t.Errorf("in the machine:\n%s", out)
		}
		return
	}
	p, other := sameID(t)
	p.Kill()
	p.Stop()
	if err := other.Process.Signal(syscall.SIGTERM); err != nil { // not before what Kill may have sent
		t.Fatal(err)
	}
	var end *exec.ExitError
	if err := other.Wait(); !errors.As(err, &end) || end.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
		t.Errorf("the other ends with %v, want its own SIGTERM", err)
	}
}

// sameID gives a process that has ended and a later one that has its id and
// leads a group.
func sameID(t *testing.T) (*stage.Process, *exec.Cmd) {
	t.Helper()
	for range 100 { // a thread may have taken the id
		p := stage.Start(t, "first", exec.Command("true"))
		<-p.Done()
		if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", fmt.Append(nil, p.PID-1), 0o644); err != nil {
			t.Fatal(err)
		}
		other := exec.Command("sleep", "600")
		other.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := other.Start(); err != nil {
			t.Fatal(err)
		}
		if other.Process.Pid == p.PID {
			return p, other
		}
		_ = other.Process.Kill()
		_ = other.Wait() // killed
	}
	t.Fatal("no process gets the id of one that has ended")
	return nil, nil
}

// TestHeldOutput checks that a process has ended even if one that has left its
// group holds its output open.
func TestHeldOutput(t *testing.T) {
	cmd := exec.Command("sh", "-c", "setsid sh -c 'echo $$; exec sleep 600' & exec sleep 0.5")
	var out bytes.Buffer
	cmd.Stdout = &out
	p := stage.Start(t, "holder", cmd)
	select {
	case <-p.Done():
	case <-time.After(time.Minute):
		t.Fatal("still waiting for the output after a minute")
	}
	var holder int
	if _, err := fmt.Sscan(out.String(), &holder); err != nil {
		t.Fatalf("%v from %q", err, &out)
	}
	if err := p.Err(); !errors.Is(err, exec.ErrWaitDelay) {
		t.Errorf("it ended with %v", err)
	}
	if err := syscall.Kill(holder, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// TestLocate checks that a program that is not where its variable says is missed
// by the names of both.
func TestLocate(t *testing.T) {
	t.Setenv("ICP_TEST_NOWHERE", "/nowhere/sh")
	path, err := stage.Locate("ICP_TEST_NOWHERE", "sh")
	if want := "ICP_TEST_NOWHERE: stat /nowhere/sh: no such file or directory; run 'make deps'"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%q, %v; want an error with %q", path, err, want)
	}
	t.Setenv("ICP_TEST_NOWHERE", "/bin/sh")
	if path, err = stage.Locate("ICP_TEST_NOWHERE", "nothing"); path != "/bin/sh" || err != nil {
		t.Errorf("%q, %v; want /bin/sh", path, err)
	}
}
