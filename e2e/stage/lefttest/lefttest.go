// Package lefttest kills a test binary in the midst of what it has started, and
// looks for what of it stays.
package lefttest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/authsec-ai/icp/e2e/stage"
)

// What a victim, which is the test binary once more, gets in its environment.
const (
	nameVariable  = "ICP_TEST_VICTIM" // the test that it is for
	readyVariable = "ICP_TEST_READY"  // a file that it makes when it has started everything
)

// How long a start may take, and what was killed to go.
const (
	startLimit = 5 * time.Minute
	goneLimit  = time.Minute
)

// Killed runs start in a process of its own, kills that, and fails the test
// unless everything goes. While it lives, the look for what is left must find
// each of sees, so that it is known to see. It works by running the test that
// calls it again; what that does before the call is done twice.
func Killed(t *testing.T, start func(*testing.T), sees ...string) {
	t.Helper()
	if isVictim(t, start) {
		select {} // until killed
	}
	victim, run := startVictim(t)
	if victim == nil {
		return
	}
	there := strings.Join(left(t, run), "\n")
	for _, part := range sees {
		if !strings.Contains(there, part) {
			t.Errorf("the check sees no %q among\n%s", part, there)
		}
	}
	victim.kill()
	nothingStays(t, run)
}

// Ended is Killed for a start that breaks something by itself: then the victim
// goes on to its end, as a test does.
func Ended(t *testing.T, start func(*testing.T)) {
	t.Helper()
	if isVictim(t, start) {
		return
	}
	victim, run := startVictim(t)
	if victim == nil {
		return
	}
	if <-victim.done; victim.err != nil {
		t.Errorf("it ended so: %v", victim.err)
	}
	nothingStays(t, run)
}

// isVictim runs start if this process is the victim of this test.
func isVictim(t *testing.T, start func(*testing.T)) bool {
	t.Helper()
	if os.Getenv(nameVariable) != t.Name() {
		return false
	}
	start(t)
	if err := os.WriteFile(os.Getenv(readyVariable), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return true
}

// victim is a process that is not started by the stage, which would kill what
// it leaves.
type victim struct {
	cmd  *exec.Cmd
	log  string        // file
	done chan struct{} // closed when it has ended
	err  error         // of Wait; read after done
}

var victims atomic.Int32

// startVictim runs this test in another process and gives it and its run when
// everything has started; nil in a victim of another test.
func startVictim(t *testing.T) (*victim, string) {
	t.Helper()
	if os.Getenv(nameVariable) != "" {
		return nil, ""
	}
	run := fmt.Sprintf("%svictim%d_%d", stage.RunID(), os.Getpid(), victims.Add(1))
	dir := stage.Folder(t)
	ready := filepath.Join(dir, "ready")
	top, _, _ := strings.Cut(t.Name(), "/")
	v := &victim{cmd: exec.Command(os.Args[0], "-test.run=^"+top+"$"), log: filepath.Join(dir, "log"), done: make(chan struct{})}
	log, err := os.Create(v.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	v.cmd.Stdout, v.cmd.Stderr = log, log
	v.cmd.Env = append(os.Environ(), nameVariable+"="+t.Name(), readyVariable+"="+ready, "ICP_STAGE_RUN="+run)
	if err := v.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { defer close(v.done); v.err = v.cmd.Wait() }()
	t.Cleanup(func() {
		v.kill()
		if t.Failed() {
			t.Logf("the victim printed:\n%s", v.printed())
		}
	})
	stage.Eventually(t, startLimit, func() error {
		_, err := os.Stat(ready)
		select {
		case <-v.done:
			if _, err = os.Stat(ready); err != nil {
				t.Fatalf("the victim ended before it was ready: %v", v.err)
			}
		default:
		}
		return err
	})
	return v, run
}

// kill ends the process, and nothing that it has started.
func (v *victim) kill() {
	_ = v.cmd.Process.Kill() // it may have ended already
	<-v.done
}

func (v *victim) printed() string {
	raw, err := os.ReadFile(v.log)
	if err != nil {
		return err.Error()
	}
	return string(raw)
}

func nothingStays(t *testing.T, run string) {
	t.Helper()
	stage.Eventually(t, goneLimit, func() error {
		if there := left(t, run); len(there) > 0 {
			return fmt.Errorf("left:\n%s", strings.Join(there, "\n"))
		}
		return nil
	})
}

func left(t *testing.T, run string) []string {
	t.Helper()
	there, err := stage.Left(run)
	if err != nil {
		t.Fatal(err)
	}
	return there
}
