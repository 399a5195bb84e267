package main

import (
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

// mainVariable has the test binary be the program.
const mainVariable = "ICP_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(mainVariable) != "" {
		main()
		return
	}
	m.Run()
}

// start starts the program as a run of that name.
func start(t *testing.T, run string, args ...string) *stage.Process {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), mainVariable+"=1", "ICP_STAGE_RUN="+run)
	return stage.Start(t, "check", cmd)
}

// code waits for the end and gives the exit status.
func code(t *testing.T, p *stage.Process) int {
	t.Helper()
	var exit *exec.ExitError
	if err := p.Err(); errors.As(err, &exit) {
		return exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	return 0
}

// TestProves has a component proven, and one that does not exist.
func TestProves(t *testing.T) {
	t.Parallel()
	p := start(t, fmt.Sprintf("check%d", os.Getpid()), "softhsm")
	if code, said := code(t, p), p.Tail(1<<20); code != 0 || !strings.HasPrefix(said, "SoftHSM ") ||
		!strings.Contains(said, "\n1 components in ") || !strings.HasSuffix(said, "\nnothing is left: no process, folder, control group, mount or network namespace\n") {
		t.Errorf("exit status %d:\n%s", code, said)
	}
	p = start(t, fmt.Sprintf("check%d", os.Getpid()), "no such")
	if code, said := code(t, p), p.Tail(1<<20); code != 1 || !strings.Contains(said, "no component has such a name") {
		t.Errorf("exit status %d:\n%s", code, said)
	}
}

// TestLeft checks what is said of a run that has left something, and of one that
// has not.
func TestLeft(t *testing.T) {
	t.Parallel()
	run := fmt.Sprintf("left%d", os.Getpid())
	folder := "/tmp/icp-" + run + "-1"
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(folder) }) // if the test ends early
	p := start(t, "check", "-left", run)
	if code, said := code(t, p), p.Tail(1<<20); code != 1 || said != "left behind by run "+run+":\nfolder "+folder+"\n" {
		t.Errorf("exit status %d:\n%s", code, said)
	}
	if err := os.Remove(folder); err != nil {
		t.Fatal(err)
	}
	p = start(t, "check", "-left", run)
	if code, said := code(t, p), p.Tail(1<<20); code != 0 || !strings.HasPrefix(said, "nothing is left: ") {
		t.Errorf("exit status %d:\n%s", code, said)
	}
}

// TestInterrupt presses Ctrl-C while a component runs.
func TestInterrupt(t *testing.T) {
	t.Parallel()
	run := fmt.Sprintf("interrupt%d", os.Getpid())
	p := start(t, run, "docker")
	p.WaitReady(t, time.Minute, func() error {
		left, err := stage.Left(run)
		if err == nil && !strings.Contains(strings.Join(left, "\n"), "dockerd") {
			err = errors.New("no dockerd runs yet")
		}
		return err
	})
	if err := p.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	var end *exec.ExitError
	if err := p.Err(); !errors.As(err, &end) || end.Sys().(syscall.WaitStatus).Signal() != syscall.SIGINT {
		t.Errorf("it ends with %v, want an interrupt; it printed:\n%s", err, p.Tail(4096))
	}
	stage.Eventually(t, 30*time.Second, func() error {
		left, err := stage.Left(run)
		if len(left) > 0 {
			err = fmt.Errorf("left:\n%s", strings.Join(left, "\n"))
		}
		return err
	})
}
