package stage

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// A daemon leaves its parent and its process group, and may wipe out what the
// stage has put into its environment. It stays in its control group. So where
// this program may make control groups of version 2, as root may, what it starts
// outside of machines is born in one of its own each, and what is in that when
// the test ends is killed.

// unified gives where this program may make control groups of version 2; empty
// if nowhere.
var unified = sync.OnceValue(func() string {
	mounts, _ := readMounts("/proc/self/mountinfo") // without, there is no place
	for _, mount := range mounts {
		if mount.kind == "cgroup2" && mount.root == "/" && unix.Access(mount.path, unix.W_OK) == nil {
			return mount.path
		}
	}
	return ""
})

var confinements atomic.Int32

// confine has the process born in a control group of its own, if there can be
// one.
func (p *Process) confine() (*os.File, error) {
	if unified() == "" {
		return nil, nil
	}
	p.cgroup = fmt.Sprintf("%s/%s%d-p%d", unified(), prefix(RunID()), os.Getpid(), confinements.Add(1))
	if err := entrust("cgroup", p.cgroup); err != nil {
		return nil, err
	}
	if err := mkdir(p.cgroup); err != nil {
		return nil, err
	}
	return bearIn(p.cgroup, p.cmd)
}

// bearIn has cmd born in a control group of version 2. The file must be open
// until then.
func bearIn(group string, cmd *exec.Cmd) (*os.File, error) {
	f, err := os.Open(group)
	if err != nil {
		return nil, err
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(f.Fd())
	return f, nil
}

// clear kills what the process has started and left, and removes its control
// group.
func (p *Process) clear() error {
	if p.cgroup == "" {
		return nil
	}
	if err := removeCgroup(p.cgroup); err != nil {
		return fmt.Errorf("end what %s has left: %w", p.name, err)
	}
	release("cgroup", p.cgroup)
	return nil
}

// confined says whether another program's stage has confined this one.
func confined() bool {
	groups, _ := os.ReadFile("/proc/self/cgroup") // without, there is no group
	return strings.Contains("\n"+string(groups), "\n0::/icp-")
}
