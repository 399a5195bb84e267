package stage_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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

// TestStop checks that a process is asked to end, and killed if it does not.
func TestStop(t *testing.T) {
	for script, want := range map[string]syscall.Signal{
		"exec sleep 600": syscall.SIGTERM,
		"trap '' TERM; echo set; sleep 600; sleep 600": syscall.SIGKILL,
	} {
		p := stage.Start(t, "stopped", exec.Command("sh", "-c", script))
		if want == syscall.SIGKILL {
			p.WaitReady(t, time.Minute, func() error {
				if p.Tail(10) != "set\n" {
					return errors.New("the trap is not set")
				}
				return nil
			})
		}
		p.Stop()
		select {
		case <-p.Done():
		default:
			t.Errorf("%q has not ended", script)
			p.Kill()
		}
		var end *exec.ExitError
		if err := p.Err(); !errors.As(err, &end) || end.Sys().(syscall.WaitStatus).Signal() != want {
			t.Errorf("%q ended with %v, want %v", script, err, want)
		}
	}
}

// TestAwait checks how waiting fails: when the process has ended, and when it
// takes too long.
func TestAwait(t *testing.T) {
	reason := errors.New("not yet")
	never := func() error { return reason }
	ended := stage.Start(t, "ended", exec.Command("sh", "-c", "echo why; exit 3"))
	if err := ended.Await(time.Minute, never); err == nil || err.Error() != "ended ended before it was ready (exit status 3); it printed:\nwhy\n" {
		t.Errorf("a process that has ended: %v", err)
	}
	slow := stage.Start(t, "slow", exec.Command("sleep", "600"))
	if err := slow.Await(time.Millisecond, never); !errors.Is(err, reason) {
		t.Errorf("a slow process: %v", err)
	}
	if err := slow.Await(time.Minute, func() error { return nil }); err != nil {
		t.Errorf("a process that is ready: %v", err)
	}
}

// TestLocate checks where programs are looked for, and in which order.
func TestLocate(t *testing.T) {
	const variable = "ICP_TEST_NO_SUCH"
	place := filepath.Join(t.TempDir(), "no-such-program")
	if path, err := stage.Locate(variable, "no-such-program", place); err == nil || !strings.Contains(err.Error(), variable) || !strings.Contains(err.Error(), "make components") {
		t.Errorf("nowhere: %q, %v", path, err)
	}
	if err := os.WriteFile(place, nil, 0o700); err != nil {
		t.Fatal(err)
	}
	if path, err := stage.Locate(variable, "no-such-program", "/nowhere", place); path != place || err != nil {
		t.Errorf("in its place: %q, %v", path, err)
	}
	if path, err := stage.Locate(variable, "sh", place); filepath.Base(path) != "sh" || err != nil {
		t.Errorf("on the PATH: %q, %v", path, err)
	}
	t.Setenv(variable, place)
	if path, err := stage.Locate(variable, "sh"); path != place || err != nil {
		t.Errorf("by the variable: %q, %v", path, err)
	}
	t.Setenv(variable, "/nowhere/sh")
	want := variable + ": stat /nowhere/sh: no such file or directory; run 'make deps'"
	if path, err := stage.Locate(variable, "sh", place); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("by a wrong variable: %q, %v; want an error with %q", path, err, want)
	}
}

// TestRunID checks that a run's name is refused that can't be one.
func TestRunID(t *testing.T) {
	for name, good := range map[string]bool{"a_B1": true, "a-b": false, "a/b": false, "a b": false} {
		cmd := exec.Command(os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), "ICP_STAGE_RUN="+name)
		out, err := cmd.CombinedOutput()
		if refused := err != nil && strings.Contains(string(out), "use letters, digits and '_'"); refused == good {
			t.Errorf("%q: %v\n%s", name, err, out)
		}
	}
}
