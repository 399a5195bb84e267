package stage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// Machine is a computer of the test's own on this kernel: its network, mounts,
// process ids, host name and control groups are its own. Files are shared, but
// for /run and /dev/shm, which are empty, and for /etc, /opt and /var, where it
// sees the host's but what it writes is its own. Nothing in it outlives it: its
// first process ends with the test, and the kernel then ends the others.
//
// Seen from outside, its processes are ordinary ones with ids of the outside;
// their control groups lie below the machine's.
type Machine struct {
	Name string

	init       *Process
	namespaces []namespace
	cgroups    []cgroup
}

type namespace struct {
	kind int // CLONE_NEW…
	file *os.File
}

// cgroup is the machine's root in one hierarchy, as seen from outside.
type cgroup struct {
	path       string
	controller string // "cpu,cpuacct", "name=systemd"; empty for version 2
}

// Cgroups says which control groups a Machine shows in /sys/fs/cgroup.
type Cgroups string

// CgroupsHost shows those of the host, version 1, 2 or both; CgroupsV2 shows
// version 2 alone, with the controllers that version 1 has left it.
const (
	CgroupsHost Cgroups = "host"
	CgroupsV2   Cgroups = "v2"
)

var machines atomic.Int32

// NewMachine starts a machine that ends when the test does. It needs root.
func NewMachine(t T, groups Cgroups) *Machine {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatalf("this test makes namespaces: run it as root")
	}
	m := &Machine{Name: fmt.Sprintf("%s%d-%d", prefix(RunID()), os.Getpid(), machines.Add(1))}
	t.Cleanup(func() { m.stop(t) })
	if err := m.makeCgroups(); err != nil {
		t.Fatalf("make a machine: %v", err)
	}
	if err := m.boot(t, groups); err != nil {
		t.Fatalf("start a machine: %v", err)
	}
	return m
}

func (m *Machine) stop(t T) {
	if m.init != nil {
		m.init.Kill() // returns when every process in it is gone
	}
	for _, ns := range m.namespaces {
		_ = ns.file.Close()
	}
	for _, group := range m.cgroups {
		if err := removeCgroup(group.path); err != nil {
			t.Errorf("remove a machine's control group: %v", err)
			continue
		}
		release("cgroup", group.path)
	}
}

// makeCgroups makes a group for the machine in each hierarchy of this host.
func (m *Machine) makeCgroups() error {
	mounts, err := readMounts("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for _, mount := range mounts {
		if mount.kind != "cgroup" && mount.kind != "cgroup2" || mount.root != "/" {
			continue
		}
		group := cgroup{path: filepath.Join(mount.path, m.Name)}
		if mount.kind == "cgroup" {
			group.controller = controllers(mount.options)
		}
		if err := entrust("cgroup", group.path); err != nil {
			return err
		}
		if err := mkdir(group.path); err != nil {
			return err
		}
		m.cgroups = append(m.cgroups, group)
		if err := admitCPUs(group); err != nil {
			return err
		}
	}
	if len(m.cgroups) == 0 {
		return errors.New("no control groups are mounted")
	}
	return nil
}

// admitCPUs lets processes in: a new cpuset of version 1 has no CPU and takes
// nobody.
func admitCPUs(group cgroup) error {
	if group.controller != "cpuset" {
		return nil
	}
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		value, err := os.ReadFile(filepath.Join(group.path, "..", file))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(group.path, file), value, 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(group.path, "cgroup.clone_children"), []byte("1"), 0o644)
}

// controllers gives what names a version 1 hierarchy among a mount's options.
func controllers(options string) string {
	var names []string
	for option := range strings.SplitSeq(options, ",") {
		switch option {
		case "rw", "ro", "xattr", "noprefix", "clone_children":
		default:
			names = append(names, option)
		}
	}
	return strings.Join(names, ",")
}

// What the machine's first process gets in its environment.
const (
	cgroupsVariable = "ICP_STAGE_CGROUPS"  // controller=path, joined by ':'
	showVariable    = "ICP_STAGE_SHOW"     // Cgroups
	nameVariable    = "ICP_STAGE_HOSTNAME" // of the machine
)

// boot starts the machine's first process and waits until it has set itself up.
func (m *Machine) boot(t T, show Cgroups) error {
	ours, theirs, err := lifeline()
	if err != nil {
		return err
	}
	t.Cleanup(func() { _ = syscall.Close(ours) })
	defer theirs.Close()
	answer, ready, err := os.Pipe()
	if err != nil {
		return err
	}
	defer answer.Close()
	defer ready.Close()
	var groups []string
	for _, g := range m.cgroups {
		groups = append(groups, g.path+"="+g.controller)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVariable+"=machine", cgroupsVariable+"="+strings.Join(groups, ":"),
		showVariable+"="+string(show), nameVariable+"="+m.Name)
	cmd.Dir, cmd.Stdin, cmd.ExtraFiles = "/", theirs, []*os.File{ready}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true,
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC}
	group, err := m.bear(cmd)
	if err != nil {
		return err
	}
	defer group.Close()
	if m.init, err = Launch("machine", Folder(t), cmd); err != nil {
		return err
	}
	_ = ready.Close() // so that the reading below ends if the process does
	said, err := io.ReadAll(answer)
	if err != nil {
		return err
	}
	if string(said) != "ready" {
		return fmt.Errorf("its first process says %q %s", said, m.init.Tail(1024))
	}
	return m.openNamespaces()
}

func (m *Machine) openNamespaces() error {
	for _, ns := range []struct {
		kind int
		name string
	}{
		// The mounts come last but one: after them the files below have other names.
		{unix.CLONE_NEWNET, "net"}, {unix.CLONE_NEWUTS, "uts"}, {unix.CLONE_NEWIPC, "ipc"},
		{unix.CLONE_NEWCGROUP, "cgroup"}, {unix.CLONE_NEWNS, "mnt"}, {unix.CLONE_NEWPID, "pid"},
	} {
		f, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", m.init.PID, ns.name))
		if err != nil {
			return err
		}
		m.namespaces = append(m.namespaces, namespace{ns.kind, f})
	}
	return nil
}

// Start runs cmd in the machine and stops it when the test ends.
func (m *Machine) Start(t T, name string, cmd *exec.Cmd) *Process {
	t.Helper()
	group, err := m.bear(cmd)
	if err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	defer group.Close()
	return start(t, name, cmd, m.enter)
}

// bear has cmd born in the machine's control group of version 2, if there is one.
func (m *Machine) bear(cmd *exec.Cmd) (*os.File, error) {
	for _, group := range m.cgroups {
		if group.controller == "" {
			return bearIn(group.path, cmd)
		}
	}
	return nil, nil
}

// Output runs a command in the machine to its end and gives what it printed; a
// failure fails the test with the output.
func (m *Machine) Output(t T, cmd *exec.Cmd) string {
	t.Helper()
	p := m.Start(t, filepath.Base(cmd.Path), cmd)
	if err := p.Err(); err != nil {
		t.Fatalf("%s: %v\n%s", fmt.Sprint(cmd.Args), err, p.Tail(1<<16))
	}
	return p.Tail(1 << 20)
}

// Cover shows source, a file or a folder, at path inside the machine. What lies
// at path on this host stays as it is.
func (m *Machine) Cover(t T, path, source string) {
	t.Helper()
	done := make(chan error)
	goAway(m.enter, done, func() { done <- unix.Mount(source, path, "", unix.MS_BIND, "") })
	if err := <-done; err != nil {
		t.Fatalf("cover a machine's %s with %s: %v", path, source, err)
	}
}

// enter moves this thread into the machine. What the thread starts is born
// there; the thread itself must not be used for anything else afterwards.
func (m *Machine) enter() error {
	for _, group := range m.cgroups {
		if group.controller == "" {
			continue // a thread can't go alone; the child is made in the group
		}
		tid := fmt.Sprint(unix.Gettid())
		if err := os.WriteFile(filepath.Join(group.path, "tasks"), []byte(tid), 0o644); err != nil {
			return fmt.Errorf("enter the machine: %w", err)
		}
	}
	if err := unix.Unshare(unix.CLONE_FS); err != nil { // or the mounts can't be changed for one thread
		return fmt.Errorf("enter the machine: %w", err)
	}
	for _, ns := range m.namespaces {
		if err := unix.Setns(int(ns.file.Fd()), ns.kind); err != nil {
			return fmt.Errorf("enter the machine's %s: %w", ns.file.Name(), err)
		}
	}
	return nil
}

// Outside gives the outside's id of the process that has this id in the machine;
// 0 if there is none.
func (m *Machine) Outside(pid int) int {
	files, _ := filepath.Glob("/proc/[0-9]*/status") // a good pattern
	for _, file := range files {
		if ids := namespaceIDs(file); len(ids) > 1 && ids[1] == strconv.Itoa(pid) && m.holds(filepath.Dir(file)) {
			outside, _ := strconv.Atoi(filepath.Base(filepath.Dir(file))) // digits
			return outside
		}
	}
	return 0
}

// namespaceIDs gives the ids that a process has, from this namespace down.
func namespaceIDs(status string) []string {
	raw, _ := os.ReadFile(status) // it may have ended
	_, rest, _ := strings.Cut(string(raw), "\nNSpid:")
	line, _, _ := strings.Cut(rest, "\n")
	return strings.Fields(line)
}

// holds says whether a process is in this machine.
func (m *Machine) holds(proc string) bool {
	groups, _ := os.ReadFile(filepath.Join(proc, "cgroup")) // it may have ended
	for line := range strings.Lines(string(groups)) {
		if strings.Contains(strings.TrimSpace(line)+"/", ":/"+m.Name+"/") {
			return true
		}
	}
	return false
}

// DialContext connects from inside the machine's network; addr is an IP address
// and a port.
func (m *Machine) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	var conn net.Conn
	err := m.inNetwork(func() (err error) {
		conn, err = new(net.Dialer).DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}

// Listen listens inside the machine's network; addr is an IP address and a port.
func (m *Machine) Listen(network, addr string) (net.Listener, error) {
	var l net.Listener
	err := m.inNetwork(func() (err error) {
		l, err = net.Listen(network, addr)
		return err
	})
	return l, err
}

// inNetwork calls f on a thread that is in the machine's network.
func (m *Machine) inNetwork(f func() error) error {
	done := make(chan error)
	goAway(func() error {
		network := m.namespaces[0]
		if err := unix.Setns(int(network.file.Fd()), network.kind); err != nil {
			return fmt.Errorf("enter the machine's network: %w", err)
		}
		return nil
	}, done, func() { done <- f() })
	return <-done
}

// goAway calls enter and then f on a thread that nothing else uses and that ends
// with f. If enter fails, failed gets the error and f is not called.
func goAway(enter func() error, failed chan<- error, f func()) {
	work := func() {
		runtime.LockOSThread() // for good: the thread ends with its goroutine
		if err := enter(); err != nil {
			failed <- err
			return
		}
		f()
	}
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			work()
			return
		}
		// The program's first thread never ends and would stay away. As long as
		// this goroutine holds it, another gets another.
		defer runtime.UnlockOSThread()
		done := make(chan struct{})
		go func() {
			defer close(done)
			work()
		}()
		<-done
	}()
}
