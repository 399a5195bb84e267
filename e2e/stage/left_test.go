package stage_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/authsec-ai/icp/e2e/stage"
)

// holdVariable has the test binary start all kinds of things, name itself in
// this file, and wait to be killed.
const holdVariable = "ICP_TEST_HOLD"

// holder is the test binary as the run of that name, which holds things.
func holder(run, ready string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], "-test.run=^TestNothingStays$")
	cmd.Env = append(os.Environ(), holdVariable+"="+ready, "ICP_STAGE_RUN="+run)
	return cmd
}

// awaitFile waits until the holder has what it holds.
func awaitFile(t *testing.T, path string) {
	t.Helper()
	stage.Eventually(t, time.Minute, func() error {
		_, err := os.Stat(path)
		return err
	})
}

// sees wants the check to find what a run has not ended yet.
func sees(run, want string) error {
	left, err := stage.Left(run)
	if all := strings.Join(left, "\n"); err == nil && !strings.Contains(all, want) {
		err = fmt.Errorf("the check sees no %q among\n%s", want, all)
	}
	return err
}

func awaitNothingLeft(t *testing.T, run string) {
	t.Helper()
	stage.Eventually(t, 30*time.Second, func() error {
		left, err := stage.Left(run)
		if len(left) > 0 {
			err = fmt.Errorf("left:\n%s", strings.Join(left, "\n"))
		}
		return err
	})
}

// TestNothingStays kills a test binary in the midst of everything it has started.
func TestNothingStays(t *testing.T) {
	if ready := os.Getenv(holdVariable); ready != "" {
		hold(t, ready)
	}
	run, ready := fmt.Sprintf("held%d", os.Getpid()), filepath.Join(t.TempDir(), "ready")
	cmd := holder(run, ready)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	kill := startUntil(t, cmd, run, ready, "process ", "folder ", "control group ", ": sleep 601", ": sleep 602", ": sleep 603")
	if left, err := stage.Left(run[:len(run)-1]); len(left) > 0 || err != nil {
		t.Errorf("the check takes for those of a run with a shorter name: %v, %v", left, err)
	}
	kill()
	awaitNothingLeft(t, run)
}

// startUntil starts a test binary, waits until it is ready and the check sees what
// it holds, and gives what kills it. The stage does not start it: it would kill
// what the binary leaves.
func startUntil(t *testing.T, cmd *exec.Cmd, run, ready string, holds ...string) (kill func()) {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = func() { _, _ = cmd.Process.Kill(), cmd.Wait() } // the second time in vain
	t.Cleanup(kill)
	awaitFile(t, ready)
	for _, want := range holds {
		stage.Eventually(t, time.Minute, func() error { return sees(run, want) })
	}
	return kill
}

// hold starts processes inside and outside of a machine, with children that have
// left their parents and all that tells of this run.
func hold(t *testing.T, ready string) {
	const daemon = "(cd / && env -i setsid sleep $0 &) ; sleep 600"
	m := stage.NewMachine(t, stage.CgroupsHost)
	m.Start(t, "inside", exec.Command("sh", "-c", daemon, "601"))
	stage.Start(t, "outside", exec.Command("sh", "-c", daemon, "602"))
	m.Start(t, "mounted", exec.Command("sh", "-c", "mkdir $0/m && mount -t tmpfs none $0/m && touch $0/m/x && sleep 600", stage.Folder(t)))
	stage.Output(t, exec.Command("sh", "-c", ": >$0; sleep 603 & sleep 603", ready)) // until killed
}

// TestKeeperOfChild checks that a test binary which another test has started, and
// ends, still leaves nothing.
func TestKeeperOfChild(t *testing.T) {
	run := fmt.Sprintf("child%d", os.Getpid())
	t.Run("parent", func(t *testing.T) {
		ready := filepath.Join(t.TempDir(), "ready")
		stage.Start(t, "binary", holder(run, ready))
		awaitFile(t, ready)
	})
	awaitNothingLeft(t, run)
}

// TestDeadKeeper kills the keeper of a test binary, which then starts nothing more,
// says why, and leaves nothing.
func TestDeadKeeper(t *testing.T) {
	const inside = "ICP_TEST_DEAD_KEEPER"
	if os.Getenv(inside) != "" {
		stage.Folder(t)
		killKeeper(t)
		stage.Eventually(t, time.Minute, func() error {
			err := stage.Run(t.Context(), func(s *stage.Session) { stage.Folder(s) })
			if err == nil || !strings.Contains(err.Error(), "tell the stage's keeper, process ") {
				return fmt.Errorf("another folder: %v", err)
			}
			return nil
		})
		return
	}
	run := fmt.Sprintf("dead%d", os.Getpid())
	cmd := exec.Command(os.Args[0], "-test.run=^TestDeadKeeper$")
	cmd.Env = append(os.Environ(), inside+"=1", "ICP_STAGE_RUN="+run)
	stage.Output(t, cmd)
	awaitNothingLeft(t, run)
}

// killKeeper kills the keeper that is this program's child.
func killKeeper(t *testing.T) {
	t.Helper()
	for _, child := range strings.Fields(stage.Output(t, exec.Command("pgrep", "-P", fmt.Sprint(os.Getpid())))) {
		pid, err := strconv.Atoi(child)
		if err != nil {
			t.Fatal(err)
		}
		environ, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid)) // pgrep itself has ended
		if !strings.Contains(string(environ), "\x00ICP_STAGE_ROLE=keeper\x00") {
			continue
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatal("there is no keeper")
}

// TestDaemonsEnd checks that what a program has left behind ends with the test, or
// with the command if it is to be run to its end.
func TestDaemonsEnd(t *testing.T) {
	const daemon = `cd / && env -i setsid sh -c 'echo $$ >'"$0"'; exec sleep 600' & while ! test -s $0; do sleep 0.01; done`
	out := filepath.Join(t.TempDir(), "pid")
	pid := func() (pid int, err error) {
		raw, err := os.ReadFile(out)
		if err == nil {
			_, err = fmt.Sscan(string(raw), &pid)
		}
		return pid, err
	}
	for name, run := range map[string]func(s *stage.Session, cmd *exec.Cmd){
		"started": func(s *stage.Session, cmd *exec.Cmd) {
			<-stage.Start(s, "parent", cmd).Done()
			if pid, err := pid(); err != nil || !lives(pid) {
				t.Errorf("before the test's end the daemon %d does not live: %v", pid, err)
			}
		},
		"run to its end": func(s *stage.Session, cmd *exec.Cmd) { stage.Output(s, cmd) },
	} {
		cmd := exec.Command("sh", "-c", daemon, out)
		if err := stage.Run(context.Background(), func(s *stage.Session) { run(s, cmd) }); err != nil {
			t.Fatal(err)
		}
		pid, err := pid()
		if err != nil {
			t.Fatal(err)
		}
		if lives(pid) {
			t.Errorf("%s: the daemon %d lives on", name, pid)
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		if err := os.Remove(out); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLeftOwn checks that neither a test binary nor its keeper count as left. The
// binary is one of a run of its own.
func TestLeftOwn(t *testing.T) {
	const inside = "ICP_TEST_OWN"
	if os.Getenv(inside) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestLeftOwn$")
		cmd.Env = append(os.Environ(), inside+"=1", fmt.Sprintf("ICP_STAGE_RUN=own%d", os.Getpid()))
		stage.Output(t, cmd)
		return
	}
	folder := stage.Folder(t)
	if left, err := stage.Left(stage.RunID()); err != nil || !slices.Equal(left, []string{"folder " + folder}) {
		t.Errorf("left is %q, %v; want the folder %s alone", left, err, folder)
	}
}

// TestUserLeavesNothing kills a test binary of a user who may make no control
// groups: there a process group holds what was started.
func TestUserLeavesNothing(t *testing.T) {
	if ready := os.Getenv(userVariable); ready != "" {
		stage.Start(t, "group", exec.Command("sh", "-c", "sleep 604 & exec sleep 604"))
		unmarked := exec.Command("sleep", "606")
		unmarked.Dir, unmarked.Env = stage.Folder(t), []string{"TZ=UTC"}
		stage.Start(t, "unmarked", unmarked)
		stage.Output(t, exec.Command("sh", "-c", ": >$0; sleep 605 & sleep 605", ready)) // until killed
	}
	run, dir := fmt.Sprintf("user%d", os.Getpid()), stage.Folder(t)
	binary, ready := filepath.Join(dir, "binary"), filepath.Join(dir, "ready")
	stage.Output(t, exec.Command("cp", os.Args[0], binary)) // its own folder is closed to others
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "-test.run=^TestUserLeavesNothing$")
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), userVariable+"="+ready, "ICP_STAGE_RUN="+run)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	kill := startUntil(t, cmd, run, ready, ": sleep 604", ": sleep 605", ": sleep 606")
	kill()
	awaitNothingLeft(t, run)
}

const userVariable = "ICP_TEST_USER"

// TestLeftZombie checks that a process which has ended does not count as left
// because its parent does not ask for it.
func TestLeftZombie(t *testing.T) {
	p := stage.Start(t, "parent", exec.Command("sh", "-c", "sleep 600 & echo $!; exec sleep 601"))
	var child int
	p.WaitReady(t, time.Minute, func() error {
		_, err := fmt.Sscan(p.Tail(100), &child)
		return err
	})
	line := fmt.Sprintf("process %d: ", child)
	if err := sees(stage.RunID(), line); err != nil {
		t.Error(err)
	}
	if err := syscall.Kill(child, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	stage.Eventually(t, time.Minute, func() error {
		if sees(stage.RunID(), line) == nil {
			return fmt.Errorf("the check sees %s, which has ended", line)
		}
		return nil
	})
	if err := syscall.Kill(child, 0); err != nil {
		t.Errorf("its parent has asked for it, and this has shown nothing: %v", err)
	}
}

// lives says whether a process has not ended; its parent may not know yet.
func lives(pid int) bool {
	args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)) // without, it has
	return len(args) > 0
}
