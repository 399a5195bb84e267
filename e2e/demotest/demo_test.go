package demotest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/authsec-ai/icp/e2e/stage"
)

// steps of the story, each of which can be broken on purpose.
var steps = []string{"models", "stranger", "policy", "rotation", "deletion"}

// demo is one run of the demo, whose folders are in folder.
type demo struct {
	*stage.Process
	folder string
	out    *os.File
}

func start(t *testing.T, env ...string) *demo {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("the demo starts workloads under several user ids: run this test as root")
	}
	d := &demo{folder: stage.Folder(t)}
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	d.out = out
	cmd := exec.Command(stage.Program(t, "demo"))
	cmd.Env = append(os.Environ(), append(env, "TMPDIR="+d.folder)...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	d.Process = stage.Start(t, "demo", cmd)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the demo printed:\n%s", d.printed())
		}
	})
	return d
}

func (d *demo) printed() string {
	raw, err := os.ReadFile(d.out.Name())
	if err != nil {
		return err.Error()
	}
	return string(raw)
}

// code waits for the end and gives the exit status.
func (d *demo) code(t *testing.T) int {
	t.Helper()
	err := d.Err()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if exit == nil {
		return 0
	}
	return exit.ExitCode()
}

// processes lists what runs with a path of the demo's folder.
func (d *demo) processes(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err == nil && strings.Contains(string(raw), d.folder) { // it may have ended since
			found = append(found, fmt.Sprintf("%s: %s", file, bytes.ReplaceAll(raw, []byte{0}, []byte{' '})))
		}
	}
	return found
}

// leftNothing wants neither process nor file.
func (d *demo) leftNothing(t *testing.T) {
	t.Helper()
	if left := d.processes(t); len(left) > 0 {
		t.Errorf("processes are left: %v", left)
	}
	files, err := os.ReadDir(d.folder)
	if err != nil || len(files) > 0 {
		t.Errorf("files are left: %v, %v", files, err)
	}
}

func TestEveryStepHolds(t *testing.T) {
	d := start(t)
	if code := d.code(t); code != 0 {
		t.Fatalf("exit status %d", code)
	}
	printed := d.printed()
	for _, step := range append(steps, "every step held") {
		if !strings.Contains(printed, "\n"+step+"\n") {
			t.Errorf("it printed nothing of %q", step)
		}
	}
	d.leftNothing(t)
}

// TestBreak breaks each step. They wait more than they work, so they run beside
// one another.
func TestBreak(t *testing.T) {
	for _, step := range steps {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			d := start(t, "DEMO_BREAK="+step)
			if code := d.code(t); code == 0 {
				t.Fatal("exit status 0")
			}
			printed := d.printed()
			if !strings.Contains(printed, "demo: step "+step+": ") {
				t.Errorf("it does not name the step %s", step)
			}
			logs := regexp.MustCompile(`logs: (\S+)`).FindStringSubmatch(printed)
			if logs == nil {
				t.Fatal("it names no logs")
			}
			if _, err := os.Stat(logs[1]); err != nil {
				t.Errorf("the logs: %v", err)
			}
			if left := d.processes(t); len(left) > 0 {
				t.Errorf("processes are left: %v", left)
			}
		})
	}
	t.Run("no such step", func(t *testing.T) {
		d := start(t, "DEMO_BREAK=nonsense")
		if code := d.code(t); code == 0 || !strings.Contains(d.printed(), strings.Join(steps, ", ")) {
			t.Errorf("exit status %d; want it to fail and name the steps", code)
		}
		d.leftNothing(t)
	})
}

func TestKeep(t *testing.T) {
	d := start(t, "DEMO_KEEP=1")
	if code := d.code(t); code != 0 {
		t.Fatalf("exit status %d", code)
	}
	match := regexp.MustCompile(`stop it with: kill (\d+)`).FindStringSubmatch(d.printed())
	if match == nil {
		t.Fatal("it does not say how to stop it")
	}
	pid, err := strconv.Atoi(match[1])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) }) // if the test ends early
	if left := d.processes(t); len(left) != 1 || !strings.HasPrefix(left[0], fmt.Sprintf("/proc/%d/", pid)) {
		t.Fatalf("running are %v; want icp dev, process %d, alone", left, pid)
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	stage.Eventually(t, time.Minute, func() error {
		if left := d.processes(t); len(left) > 0 {
			return fmt.Errorf("still running: %v", left)
		}
		return nil
	})
}

// TestInterrupt presses Ctrl-C at several points of the story.
func TestInterrupt(t *testing.T) {
	for _, moment := range []string{"start", "models", "rotation", "deletion"} {
		t.Run(moment, func(t *testing.T) {
			d := start(t)
			d.WaitReady(t, time.Minute, func() error {
				if moment == "start" && len(d.processes(t)) > 0 || strings.Contains(d.printed(), "\n"+moment+"\n") {
					return nil
				}
				return errors.New("it is not there yet")
			})
			if err := syscall.Kill(-d.PID, syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
			if code := d.code(t); code == 0 {
				t.Error("exit status 0")
			}
			d.leftNothing(t)
		})
	}
}
