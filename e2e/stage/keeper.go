package stage

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// The keeper is a process of its own that undoes what this program has started
// if this program can't: it reads what there is from a pipe, and when the pipe
// ends, in whatever way this program did, it kills and removes what it was told
// of and not told to forget.
//
// A line is a kind, a space and a value: "group 123" for a process group,
// "cgroup /sys/fs/cgroup/pids/icp-x-1", "folder /tmp/icp-x-1"; with a '-' before
// it the thing is gone.
var keeper struct {
	once sync.Once
	pid  atomic.Int64 // 0 before there is one
	pipe int          // its writing end; a bare descriptor, so that nothing closes it early
	err  error
}

// entrust tells the keeper of a thing before it is made.
func entrust(kind, value string) error {
	keeper.once.Do(func() { keeper.pipe, keeper.err = startKeeper() })
	if keeper.err != nil {
		return fmt.Errorf("start the stage's keeper: %w", keeper.err)
	}
	if _, err := syscall.Write(keeper.pipe, []byte(kind+" "+value+"\n")); err != nil { // short: one write is one line
		return fmt.Errorf("tell the stage's keeper, process %d: %w", keeper.pid.Load(), err)
	}
	return nil
}

// release tells the keeper that a thing is gone.
func release(kind, value string) {
	_ = entrust("-"+kind, value) // what is gone twice does no harm
}

func startKeeper() (int, error) {
	ours, theirs, err := lifeline()
	if err != nil {
		return 0, err
	}
	defer theirs.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVariable+"=keeper")
	cmd.Stdin, cmd.Stderr = theirs, os.Stderr
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // Ctrl-C is for the tests; it cleans up after them
	if confined() {                                      // or it would end with this program
		group, err := bearIn(unified(), cmd)
		if err != nil {
			return 0, errors.Join(err, syscall.Close(ours))
		}
		defer group.Close()
	}
	if err := cmd.Start(); err != nil {
		return 0, errors.Join(err, syscall.Close(ours))
	}
	keeper.pid.Store(int64(cmd.Process.Pid))
	return ours, cmd.Process.Release()
}

// lifeline gives a pipe whose writing end nobody closes before this process
// ends: it is a bare descriptor, out of the garbage collector's reach.
func lifeline() (ours int, theirs *os.File, err error) {
	var fds [2]int
	if err := syscall.Pipe2(fds[:], syscall.O_CLOEXEC); err != nil {
		return 0, nil, err
	}
	return fds[1], os.NewFile(uintptr(fds[0]), "lifeline"), nil
}

// keep is the keeper.
func keep() {
	things := readThings(os.Stdin)
	for _, group := range things["group"] {
		if pid, err := strconv.Atoi(group); err == nil && pid > 1 {
			_ = syscall.Kill(-pid, syscall.SIGKILL) // it may have ended already
		}
	}
	for _, group := range things["cgroup"] {
		report(removeCgroup(group))
	}
	for _, folder := range things["folder"] {
		report(removeFolder(folder))
	}
}

func report(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "the stage's keeper:", err)
	}
}

// readThings gives what is there when the lines end, by kind.
func readThings(lines io.Reader) map[string][]string {
	things := map[string][]string{}
	for s := bufio.NewScanner(lines); s.Scan(); {
		kind, value, _ := strings.Cut(s.Text(), " ")
		if gone, ok := strings.CutPrefix(kind, "-"); ok {
			things[gone] = slices.DeleteFunc(things[gone], func(v string) bool { return v == value })
			continue
		}
		things[kind] = append(things[kind], value)
	}
	return things
}

// undoing bounds how long something that is being killed may hold on.
const undoing = 10 * time.Second

// removeFolder removes a folder, also while its last users are ending. What is
// mounted in it is somebody else's and stays.
func removeFolder(path string) error {
	return retry(func() error {
		if err := unmountBelow(path); err != nil {
			return err
		}
		return os.RemoveAll(path)
	})
}

// unmountBelow takes away what is mounted at a path and below.
func unmountBelow(path string) error {
	mounts, err := readMounts("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for _, mount := range slices.Backward(mounts) { // the last one lies on top
		if mount.path != path && !strings.HasPrefix(mount.path, path+"/") {
			continue
		}
		if err := unmount(mount.path); err != nil {
			return err
		}
	}
	return nil
}

// removeCgroup removes a control group with those below it, whose processes it
// kills if it is of version 2 and which are ending otherwise.
func removeCgroup(path string) error {
	return retry(func() error {
		_ = os.WriteFile(filepath.Join(path, "cgroup.kill"), []byte("1"), 0) // what it can't kill makes the rest fail
		var groups []string
		err := filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				groups = append(groups, p)
			}
			return err
		})
		for _, group := range slices.Backward(groups) { // those below come first
			err = errors.Join(err, syscall.Rmdir(group))
		}
		if _, still := os.Stat(path); errors.Is(still, fs.ErrNotExist) {
			return nil
		}
		return err
	})
}

func retry(f func() error) error {
	for deadline := time.Now().Add(undoing); ; time.Sleep(20 * time.Millisecond) {
		if err := f(); err == nil || time.Now().After(deadline) {
			return err
		}
	}
}
