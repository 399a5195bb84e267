// Package stage starts the real components that tests need, each in a folder
// and on ports of its own, waits until they answer, and stops them when the
// test ends, fails or is killed.
package stage

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Process is a program that a test started.
type Process struct {
	PID     int
	LogFile string // what it prints

	name   string
	cmd    *exec.Cmd
	cgroup string        // its own; empty if it has none
	whole  bool          // what it has started ends with it
	done   chan struct{} // closed when it has ended
	err    error         // of Wait; read after done

	mu    sync.Mutex
	ended bool // from then on PID may be another's
}

// Start runs cmd as Launch does. When the test ends it stops the process, and what
// the keeper would kill.
func Start(t T, name string, cmd *exec.Cmd) *Process {
	t.Helper()
	return start(t, name, cmd, nil)
}

func start(t T, name string, cmd *exec.Cmd, enter func() error) *Process {
	t.Helper()
	p, err := launch(name, Folder(t), cmd, enter)
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() {
		p.Stop()
		if err := p.clear(); err != nil {
			t.Errorf("%v", err)
		}
		if t.Failed() {
			t.Logf("%s printed:\n%s", name, p.Tail(4096))
		}
	})
	return p
}

// Launch runs cmd in a process group of its own. If this program dies the kernel
// kills cmd's process, or sends it cmd.SysProcAttr.Pdeathsig if that is set, and
// the keeper kills the group and, if this program may make control groups, as
// root may, all that the process has started. Output goes to a log in dir unless
// cmd has its own. Stop it.
func Launch(name, dir string, cmd *exec.Cmd) (*Process, error) {
	return launch(name, dir, cmd, nil)
}

// launch is Launch on a thread that has called enter, if there is one.
func launch(name, dir string, cmd *exec.Cmd, enter func() error) (*Process, error) {
	log, err := os.Create(filepath.Join(dir, name+".log"))
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer log.Close()
	if cmd.Stdout == nil {
		cmd.Stdout = log
	}
	if cmd.Stderr == nil {
		cmd.Stderr = log
	}
	p := newProcess(name, cmd)
	p.LogFile = log.Name()
	return p, p.launch(enter)
}

func newProcess(name string, cmd *exec.Cmd) *Process {
	return &Process{name: name, cmd: cmd, done: make(chan struct{})}
}

// launch starts the process on a thread that has called enter, if there is one.
func (p *Process) launch(enter func() error) error {
	cmd := p.cmd
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = !cmd.SysProcAttr.Setsid   // a session is a group, too
	if cmd.SysProcAttr.Pdeathsig == 0 && enter == nil { // Go's child would not find its parent from a machine, and end
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	if enter == nil && !cmd.SysProcAttr.UseCgroupFD {
		group, err := p.confine()
		if err != nil {
			return fmt.Errorf("start %s: %w", p.name, err)
		}
		defer group.Close() // not before it is born
	}
	if cmd.WaitDelay == 0 { // one that has left the group may hold its output
		cmd.WaitDelay = 5 * time.Second
	}
	started := make(chan error)
	if enter == nil {
		go p.run(started)
	} else {
		goAway(enter, started, func() { p.run(started) })
	}
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", p.name, errors.Join(err, p.clear()))
	}
	return nil
}

// run keeps the thread that started the child until the child ends: the
// parent-death signal is tied to that thread.
func (p *Process) run(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := p.cmd.Start(); err != nil {
		started <- err
		return
	}
	p.PID = p.cmd.Process.Pid
	group := strconv.Itoa(p.PID)
	err := entrust("group", group)
	started <- err
	if err != nil {
		p.killGroup()
	}
	awaitEnd(p.PID)
	p.killGroup()
	p.mu.Lock()
	p.ended = true
	p.mu.Unlock()
	release("group", group)
	if p.whole {
		p.err = p.clear()
	}
	p.err = cmp.Or(p.cmd.Wait(), p.err)
	close(p.done)
}

// awaitEnd waits until a child has ended and leaves it to be waited for: so long
// its id, which is that of its group, is given to no other.
func awaitEnd(pid int) {
	for unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
}

// killGroup ends what is there of the process and its group.
func (p *Process) killGroup() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.ended {
		_ = syscall.Kill(-p.PID, syscall.SIGKILL) // they may have ended already
	}
}

// Stop asks the process to end, and kills it after five seconds. It waits for
// the end, and may be called more than once.
func (p *Process) Stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended already
	select {
	case <-p.done:
	case <-time.After(5 * time.Second):
		p.Kill()
	}
}

// Kill ends the process and those of its group at once (SIGKILL) and waits. It
// may be called more than once.
func (p *Process) Kill() {
	p.killGroup()
	<-p.done
}

// Signal sends sig.
func (p *Process) Signal(sig os.Signal) error { return p.cmd.Process.Signal(sig) }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err gives how the process ended; call it after Done.
func (p *Process) Err() error {
	<-p.done
	return p.err
}

// Tail gives the last n bytes of the log.
func (p *Process) Tail(n int) string {
	raw, err := os.ReadFile(p.LogFile)
	if err != nil {
		return err.Error()
	}
	return string(raw[max(0, len(raw)-n):])
}

// WaitReady fails the test if Await fails.
func (p *Process) WaitReady(t T, limit time.Duration, check func() error) {
	t.Helper()
	if err := p.Await(limit, check); err != nil {
		t.Fatalf("%v", err)
	}
}

// Await polls check until it answers nil. It is an error if the process ends
// before, or if that takes longer than limit.
func (p *Process) Await(limit time.Duration, check func() error) error {
	deadline := time.Now().Add(limit)
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended before it was ready (%v); it printed:\n%s", p.name, p.err, p.Tail(4096))
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s was not ready after %s (%w); it printed:\n%s", p.name, limit, err, p.Tail(4096))
		}
	}
}

// FreePort gives a loopback TCP port that was free a moment ago.
func FreePort(t T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("find a free port: %v", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// Dial reports whether something accepts connections at addr.
func Dial(addr string) error {
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return err
	}
	return conn.Close()
}

// Find gives the path of a program as Locate does. A missing component fails
// the test.
func Find(t T, variable, program string, places ...string) string {
	t.Helper()
	path, err := Locate(variable, program, places...)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return path
}

// Locate gives the path of a program, looking at the environment variable, then
// PATH, then the other places. The error names what to install.
func Locate(variable, program string, places ...string) (string, error) {
	if path := os.Getenv(variable); path != "" {
		if _, err := os.Stat(path); err != nil {
			return "", fmt.Errorf("%s: %w; run 'make deps' or 'make components', and leave it unset", variable, err)
		}
		return path, nil
	}
	if path, err := exec.LookPath(program); err == nil {
		return path, nil
	}
	for _, place := range places {
		if _, err := os.Stat(place); err == nil {
			return place, nil
		}
	}
	return "", fmt.Errorf("%s is not installed: run 'make deps' or 'make components', or set %s to its path", program, variable)
}

// Eventually polls check until it answers nil and fails the test after limit.
func Eventually(t T, limit time.Duration, check func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still not after %s: %v", limit, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Output runs a command to its end, or that of the test, and gives what it
// printed; a failure fails the test with the output. What it has started ends
// with it.
func Output(t T, cmd *exec.Cmd) string {
	t.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	p := newProcess(filepath.Base(cmd.Path), cmd)
	p.whole = true
	err := p.launch(nil)
	if err == nil {
		t.Cleanup(p.Kill)
		err = p.Err()
	}
	if err != nil {
		t.Fatalf("%s: %v\n%s", fmt.Sprint(cmd.Args), err, out.String())
	}
	return out.String()
}
