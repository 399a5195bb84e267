package peer

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// birth is what a process keeps for life, through every exec (proc(5),
// pid_namespaces(7)).
type birth struct {
	start uint64 // clock ticks since boot
	pidns uint64 // inode
}

// condition is what a process may change about itself, or have changed by
// others. It tells a process from itself after an exec: birth and pid do not.
type condition struct {
	exeDev, exeIno uint64
	uid, gid       uint32 // effective
	cgroup         string // lines of /proc/PID/cgroup
}

// differs names the first thing in which now is not c, "" if nothing.
func (c condition) differs(now condition) string {
	switch {
	case c.exeDev != now.exeDev || c.exeIno != now.exeIno:
		return "program"
	case c.uid != now.uid:
		return "user"
	case c.gid != now.gid:
		return "group"
	case c.cgroup != now.cgroup:
		return "cgroup"
	}
	return ""
}

func processDir(proc string, pid int32) string {
	return filepath.Join(proc, strconv.Itoa(int(pid)))
}

// openFolder opens the process's folder in procfs. The descriptor stands for
// the process that had the pid at that moment: when it is gone nothing can be
// read through it any more, whoever has the pid then.
func openFolder(proc string, pid int32) (int, error) {
	path := processDir(proc, pid)
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, nil
}

// readBirth reads what never changes of the process whose folder is open.
func readBirth(folder int) (birth, error) {
	stat, err := readFile(folder, "stat")
	if err != nil {
		return birth{}, err
	}
	var b birth
	if b.start, err = startTime(stat); err != nil {
		return birth{}, err
	}
	_, b.pidns, err = statInode(folder, "ns/pid")
	return b, err
}

// readCondition reads what may change of the process whose folder is open.
func readCondition(folder int) (condition, error) {
	var c condition
	var owner unix.Stat_t
	// The folder belongs to the effective user and group, also if the process
	// can't be dumped and its files in there therefore belong to root.
	if err := unix.Fstat(folder, &owner); err != nil {
		return condition{}, &os.PathError{Op: "stat", Path: "folder in procfs", Err: err}
	}
	c.uid, c.gid = owner.Uid, owner.Gid
	var err error
	if c.exeDev, c.exeIno, err = statInode(folder, "exe"); err != nil {
		return condition{}, err
	}
	cgroup, err := readFile(folder, "cgroup")
	if err != nil {
		return condition{}, err
	}
	c.cgroup = string(cgroup)
	return c, nil
}

// startTime reads field 22 of stat (proc(5)). The program name in field 2 is
// chosen by the process and may hold anything, so fields are counted from the
// last ')'.
func startTime(stat []byte) (uint64, error) {
	end := bytes.LastIndexByte(stat, ')')
	if end < 0 {
		return 0, errors.New("process stat has no program name")
	}
	fields := bytes.Fields(stat[end+1:])
	const startTime = 22 - 3 // the first field after the name is the third
	if len(fields) <= startTime {
		return 0, fmt.Errorf("process stat has only %d fields", len(fields)+2)
	}
	return strconv.ParseUint(string(fields[startTime]), 10, 64)
}

func statInode(folder int, name string) (dev, ino uint64, err error) {
	var st unix.Stat_t
	if err := unix.Fstatat(folder, name, &st, 0); err != nil {
		return 0, 0, &os.PathError{Op: "stat", Path: name, Err: err}
	}
	return st.Dev, st.Ino, nil
}

// readFile reads a file of procfs whole. Most fit into the first read.
func readFile(folder int, name string) ([]byte, error) {
	fd, err := unix.Openat(folder, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	content := make([]byte, 0, 1024)
	for {
		if len(content) == cap(content) {
			content = append(content, 0)[:len(content)]
		}
		n, err := unix.Read(fd, content[len(content):cap(content)])
		if err != nil {
			return nil, &os.PathError{Op: "read", Path: name, Err: err}
		}
		if n == 0 {
			return content, nil
		}
		content = content[:len(content)+n]
	}
}
