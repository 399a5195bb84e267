package peer

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// process is what tells one process from every other, and from itself after an
// exec: the start time alone does not change on exec, nor does the pid.
type process struct {
	start          uint64 // clock ticks since boot
	pidns          uint64 // inode
	exeDev, exeIno uint64
	uid, gid       uint32 // effective
	cgroup         string // lines of /proc/PID/cgroup
}

// differs names the first thing in which now is not p, "" if nothing.
func (p process) differs(now process) string {
	switch {
	case p.start != now.start:
		return "start time"
	case p.pidns != now.pidns:
		return "pid namespace"
	case p.exeDev != now.exeDev || p.exeIno != now.exeIno:
		return "program"
	case p.uid != now.uid:
		return "user"
	case p.gid != now.gid:
		return "group"
	case p.cgroup != now.cgroup:
		return "cgroup"
	}
	return ""
}

func processDir(proc string, pid int32) string {
	return filepath.Join(proc, strconv.Itoa(int(pid)))
}

// readProcess looks at one process. The caller proves with a pidfd that it was
// the process it means.
func readProcess(proc string, pid int32) (process, error) {
	dir := processDir(proc, pid)
	var p process
	var err error
	if p.start, err = readStart(dir); err != nil {
		return process{}, err
	}
	if _, p.pidns, err = statInode(dir + "/ns/pid"); err != nil {
		return process{}, err
	}
	if p.exeDev, p.exeIno, err = statInode(dir + "/exe"); err != nil {
		return process{}, err
	}
	if p.uid, p.gid, err = readOwner(dir); err != nil {
		return process{}, err
	}
	cgroup, err := os.ReadFile(dir + "/cgroup")
	if err != nil {
		return process{}, err
	}
	p.cgroup = string(cgroup)
	return p, nil
}

// readStart reads field 22 of stat (proc(5)). The program name in field 2 is
// chosen by the process and may hold anything, so fields are counted from the
// last ')'.
func readStart(dir string) (uint64, error) {
	raw, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return 0, err
	}
	end := bytes.LastIndexByte(raw, ')')
	if end < 0 {
		return 0, fmt.Errorf("%s/stat has no program name", dir)
	}
	fields := bytes.Fields(raw[end+1:])
	const startTime = 22 - 3 // the first field after the name is the third
	if len(fields) <= startTime {
		return 0, fmt.Errorf("%s/stat has only %d fields", dir, len(fields)+2)
	}
	return strconv.ParseUint(string(fields[startTime]), 10, 64)
}

// readOwner reads the effective user and group from status (proc(5)).
func readOwner(dir string) (uid, gid uint32, err error) {
	raw, err := os.ReadFile(dir + "/status")
	if err != nil {
		return 0, 0, err
	}
	if uid, err = statusField(raw, "Uid:"); err != nil {
		return 0, 0, err
	}
	gid, err = statusField(raw, "Gid:")
	return uid, gid, err
}

// statusField gives the second number (the effective one) of a line such as
// "Uid:\t1000\t1000\t1000\t1000". The name line, which the process chooses, is
// escaped by the kernel and comes first.
func statusField(status []byte, name string) (uint32, error) {
	for line := range strings.Lines(string(status)) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok {
			continue
		}
		fields := strings.Fields(rest)
		if len(fields) < 2 {
			break
		}
		n, err := strconv.ParseUint(fields[1], 10, 32)
		return uint32(n), err
	}
	return 0, errors.New("process status has no " + name)
}

func statInode(path string) (dev, ino uint64, err error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, 0, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return st.Dev, st.Ino, nil
}
