package peer

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/identity"
)

// The test binary plays the calling process too: with this variable set it
// connects to the socket named there and obeys what it reads on stdin.
const callerSocket = "ICP_TEST_CALLER_SOCKET"

func TestMain(m *testing.M) {
	if path := os.Getenv(callerSocket); path != "" {
		if err := playCaller(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func playCaller(path string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0) // no CLOEXEC: it outlives an exec
	if err != nil {
		return err
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return err
	}
	fmt.Println("connected")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		switch words := strings.Fields(in.Text()); words[0] {
		case "exec":
			return syscall.Exec(words[1], words[1:], os.Environ())
		case "undumpable":
			if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
				return err
			}
			fmt.Println("done")
		case "setgid":
			if err := syscall.Setgid(12345); err != nil {
				return err
			}
			fmt.Println("done")
		}
	}
	return in.Err()
}

// caller is a real process that has connected.
type caller struct {
	*exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

func startCaller(t *testing.T, socket string, wrap ...string) *caller {
	t.Helper()
	args := append(wrap, os.Args[0])
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), callerSocket+"="+socket)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &caller{Cmd: cmd, in: in, out: bufio.NewScanner(out)}
	t.Cleanup(c.end)
	c.hear(t)
	return c
}

func (c *caller) hear(t *testing.T) {
	t.Helper()
	if !c.out.Scan() {
		t.Fatal("the calling process said nothing")
	}
}

func (c *caller) tell(t *testing.T, line string) {
	t.Helper()
	if _, err := fmt.Fprintln(c.in, line); err != nil {
		t.Fatal(err)
	}
}

func (c *caller) end() {
	_ = c.Process.Kill() // it may have ended already
	_ = c.Wait()         // killed, so an error is expected
}

// listener gives a listening socket; its path is short enough for sun_path.
func listener(t *testing.T) *net.UnixListener {
	t.Helper()
	dir, err := os.MkdirTemp("", "peer")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(l.Addr().String(), 0o777); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// accept takes the next connection through the handshake.
func accept(t *testing.T, tr *transport, l *net.UnixListener) (net.Conn, *Caller) {
	t.Helper()
	raw, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	conn, info, err := tr.ServerHandshake(raw)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn, info.(*Caller)
}

func newTransport(t *testing.T) *transport {
	return Credentials(slog.New(slog.DiscardHandler)).(*transport)
}

func wantDenied(t *testing.T, err error, text string) {
	t.Helper()
	if identity.CodeOf(err) != identity.Denied || !strings.Contains(identity.MessageOf(err), text) {
		t.Fatalf("got %v (code %q); want permission_denied about %q", err, identity.CodeOf(err), text)
	}
}

func TestSame(t *testing.T) {
	t.Run("T-31/twin", func(t *testing.T) {
		l, tr := listener(t), newTransport(t)
		c := startCaller(t, l.Addr().String())
		_, seen := accept(t, tr, l)
		if int(seen.PID) != c.Process.Pid || int(seen.UID) != os.Getuid() || int(seen.GID) != os.Getgid() {
			t.Fatalf("saw pid %d uid %d gid %d of pid %d", seen.PID, seen.UID, seen.GID, c.Process.Pid)
		}
		for range 3 {
			if err := seen.Same(); err != nil {
				t.Fatal(err)
			}
		}
	})
	t.Run("T-31/refused/exec-swap", func(t *testing.T) {
		l, tr := listener(t), newTransport(t)
		c := startCaller(t, l.Addr().String())
		conn, seen := accept(t, tr, l)
		if err := seen.Same(); err != nil {
			t.Fatal(err)
		}
		c.tell(t, "exec /bin/sleep 60")
		stage.Eventually(t, 10*time.Second, func() error {
			if seen.Same() == nil {
				return fmt.Errorf("process %d is still taken for what it was", seen.PID)
			}
			return nil
		})
		wantDenied(t, seen.Same(), "changed its program")
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Fatal("the connection of a changed process stays open")
		}
	})
	t.Run("T-31/refused/user-changed", func(t *testing.T) {
		needRoot(t)
		l, tr := listener(t), newTransport(t)
		c := startCaller(t, l.Addr().String())
		_, seen := accept(t, tr, l)
		c.tell(t, "setgid")
		c.hear(t)
		wantDenied(t, seen.Same(), "changed its group")
	})
	t.Run("T-31/twin/undumpable", func(t *testing.T) { // its files in procfs belong to root; it is what it was
		needRoot(t)
		l, tr := listener(t), newTransport(t)
		c := startCaller(t, l.Addr().String(), "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
		_, seen := accept(t, tr, l)
		c.tell(t, "undumpable")
		c.hear(t)
		if seen.UID != 65534 {
			t.Fatalf("the caller is user %d", seen.UID)
		}
		if err := seen.Same(); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("T-31/refused/dead", func(t *testing.T) {
		l, tr := listener(t), newTransport(t)
		c := startCaller(t, l.Addr().String())
		_, seen := accept(t, tr, l)
		if err := c.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		stage.Eventually(t, 10*time.Second, func() error { // a zombie counts as ended
			if seen.Same() == nil {
				return fmt.Errorf("process %d is still taken for alive", seen.PID)
			}
			return nil
		})
	})
	t.Run("T-31/refused/pid-recycled-after-accept", func(t *testing.T) {
		needRoot(t)
		l, tr := listener(t), newTransport(t)
		c := startCaller(t, l.Addr().String())
		_, seen := accept(t, tr, l)
		c.end()
		recycle(t, c.Process.Pid)
		wantDenied(t, seen.Same(), "has ended")
	})
	t.Run("T-31/refused/pid-recycled-before-accept", func(t *testing.T) {
		needRoot(t)
		l, tr := listener(t), newTransport(t)
		c := startCaller(t, l.Addr().String())
		c.end()
		recycle(t, c.Process.Pid)
		_, seen := accept(t, tr, l)
		wantDenied(t, seen.Same(), "ended before it could be attested")
	})
}

// needRoot fails, and says so, where the test needs what only root may do.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("this test recycles pids and changes users: run it as root")
	}
}

// recycle starts a process that gets the given pid.
func recycle(t *testing.T, pid int) {
	t.Helper()
	for range 200 {
		if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", fmt.Append(nil, pid-1), 0); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("/bin/sleep", "60")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill() // it runs for a minute
			_ = cmd.Wait()         // killed, so an error is expected
		})
		if cmd.Process.Pid == pid {
			return
		}
	}
	t.Fatalf("pid %d could not be had again", pid)
}

// WA-10: a caller that the agent can't see is denied, with the remedy.
func TestUnseenCaller(t *testing.T) {
	needRoot(t)
	t.Run("WA-10/refused/not-in-procfs", func(t *testing.T) {
		l, tr := listener(t), newTransport(t)
		tr.proc = t.TempDir() // a view in which the process does not exist
		startCaller(t, l.Addr().String())
		_, seen := accept(t, tr, l)
		wantDenied(t, seen.Same(), "hostPID: true")
	})
	t.Run("WA-10/refused/pid-zero", func(t *testing.T) {
		c := &Caller{PID: 0, proc: "/proc", pidfd: -1, folder: -1}
		c.unknown = c.identify(-1)
		wantDenied(t, c.Same(), "hostPID: true")
	})
	t.Run("WA-10/twin/inner-namespace", func(t *testing.T) { // the agent sees into inner namespaces
		l, tr := listener(t), newTransport(t)
		var pids []int32
		for range 2 { // both are pid 1 inside
			startCaller(t, l.Addr().String(), "unshare", "--pid", "--fork", "--kill-child")
			_, seen := accept(t, tr, l)
			if err := seen.Same(); err != nil {
				t.Fatal(err)
			}
			var own unix.Stat_t
			if err := unix.Stat("/proc/self/ns/pid", &own); err != nil {
				t.Fatal(err)
			}
			if seen.PIDNamespace() == own.Ino {
				t.Fatal("the caller's pid namespace is taken for the agent's")
			}
			pids = append(pids, seen.PID)
		}
		if pids[0] == pids[1] || pids[0] == 1 {
			t.Fatalf("pids %v collide", pids)
		}
	})
}

func TestDescriptorsAreReturned(t *testing.T) {
	l, tr := listener(t), newTransport(t)
	before := countDescriptors(t)
	for range 50 {
		client, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conn, seen := accept(t, tr, l)
		if err := seen.Same(); err != nil {
			t.Fatal(err)
		}
		_ = client.Close()
		_ = conn.Close()
		_ = conn.Close() // twice does no harm
		if seen.Same() == nil {
			t.Fatal("a caller is the same after its connection has ended")
		}
	}
	if after := countDescriptors(t); after > before {
		t.Fatalf("%d descriptors before, %d after", before, after)
	}
	if len(tr.open) != 0 {
		t.Fatalf("connections still counted: %v", tr.open)
	}
}

func countDescriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func TestConnectionLimit(t *testing.T) {
	l, tr := listener(t), newTransport(t)
	tr.open[uint32(os.Getuid())] = MaxConnsPerUser - 1
	dial := func() net.Conn {
		client, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = client.Close() })
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = server.Close() })
		return server
	}
	if _, _, err := tr.ServerHandshake(dial()); err != nil { // T-34/twin
		t.Fatal(err)
	}
	if _, _, err := tr.ServerHandshake(dial()); err == nil || !strings.Contains(err.Error(), "connections open") {
		t.Fatalf("T-34: got %v", err)
	}
}

func TestStatFields(t *testing.T) {
	// A process may call itself anything, also what looks like the rest of the line.
	name := "x) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 666 (y"
	line := "42 (" + name + ") S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20"
	if got, err := startTime([]byte(line)); err != nil || got != 777 {
		t.Fatalf("start time %d, %v", got, err)
	}
	for _, broken := range []string{"", "42 sh S 1", "42 (sh) S 1 2"} {
		if _, err := startTime([]byte(broken)); err == nil {
			t.Fatalf("%q gave a start time", broken)
		}
	}
}

// TestCondition changes one thing after the other in a folder made like one of
// procfs.
func TestCondition(t *testing.T) {
	needRoot(t)
	replace := func(name, text string) func(dir string) error {
		return func(dir string) error {
			if err := os.WriteFile(dir+"/new", []byte(text), 0o600); err != nil {
				return err
			}
			return os.Rename(dir+"/new", dir+"/"+name)
		}
	}
	for what, change := range map[string]func(dir string) error{
		"":        func(string) error { return nil },
		"program": replace("exe", "another"),
		"cgroup":  replace("cgroup", "0::/another\n"),
		"user":    func(dir string) error { return os.Chown(dir, 12345, -1) },
		"group":   func(dir string) error { return os.Chown(dir, -1, 12345) },
	} {
		t.Run("T-31/"+what, func(t *testing.T) {
			dir, folder := fakeFolder(t)
			before, err := readCondition(folder)
			if err != nil {
				t.Fatal(err)
			}
			if err := change(dir); err != nil {
				t.Fatal(err)
			}
			after, err := readCondition(folder)
			if err != nil || before.differs(after) != what {
				t.Fatalf("differs in %q, error %v; want %q", before.differs(after), err, what)
			}
		})
	}
}

func fakeFolder(t *testing.T) (dir string, folder int) {
	t.Helper()
	dir = t.TempDir()
	for _, name := range []string{"exe", "cgroup"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	folder, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(folder) })
	return dir, folder
}

// TestReadFile reads what fits into one read and what does not.
func TestReadFile(t *testing.T) {
	dir, folder := fakeFolder(t)
	for _, size := range []int{0, 1, 1023, 1024, 1025, 100_000} {
		want := strings.Repeat("x", size)
		if err := os.WriteFile(dir+"/file", []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := readFile(folder, "file"); err != nil || string(got) != want {
			t.Errorf("%d of %d bytes, error %v", len(got), size, err)
		}
	}
	if _, err := readFile(folder, "no such file"); err == nil {
		t.Error("a file that is not there was read")
	}
}

func TestOtherTransportsAreRefused(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if _, _, err := newTransport(t).ServerHandshake(a); err == nil {
		t.Fatal("a pipe passed for a unix socket")
	}
}

func BenchmarkSame(b *testing.B) {
	dir := b.TempDir()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dir + "/s", Net: "unix"})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("unix", dir+"/s")
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	server, err := l.Accept()
	if err != nil {
		b.Fatal(err)
	}
	conn, info, err := Credentials(slog.New(slog.DiscardHandler)).ServerHandshake(server)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	b.ReportAllocs()
	for b.Loop() {
		if err := info.(*Caller).Same(); err != nil {
			b.Fatal(err)
		}
	}
}
