package stage_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/authsec-ai/icp/e2e/stage"
)

// TestMachine checks what a machine has of its own, and that a process in it is
// an ordinary one to the outside.
func TestMachine(t *testing.T) {
	m := stage.NewMachine(t, stage.CgroupsHost)
	host := stage.Output(t, exec.Command("sh", "-c", inside))
	seen := m.Output(t, exec.Command("sh", "-c", inside))
	t.Logf("in the machine:\n%s", seen)
	for i, line := range strings.Split(strings.TrimSpace(seen), "\n") {
		if same := strings.Split(host, "\n")[i]; strings.HasPrefix(line, "own ") && line == same {
			t.Errorf("the machine shares %q with the host", line)
		}
	}
	for _, want := range []string{"cgroup 0::/\n", "run 0\n", "interfaces lo\n", "host name " + m.Name + "\n"} {
		if !strings.Contains(seen, want) {
			t.Errorf("no %q in the machine", want)
		}
	}
	sleeper := m.Start(t, "sleeper", exec.Command("sleep", "600"))
	groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", sleeper.PID))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(groups)) {
		if !strings.Contains(line, ":/"+m.Name) {
			t.Errorf("seen from outside, the process is in %q, not below /%s", strings.TrimSpace(line), m.Name)
		}
	}
}

// inside prints what a process sees; "own" lines must differ from the host's.
const inside = `
for n in net mnt pid cgroup uts ipc; do echo "own $n $(readlink /proc/self/ns/$n)"; done
echo "cgroup $(grep ^0:: /proc/self/cgroup)"
echo "run $(ls /run | wc -l)"
echo "interfaces $(ls /proc/self/net/dev_snmp6 2>/dev/null || sed 1,2d /proc/net/dev | cut -d: -f1 | tr -d ' ')"
echo "host name $(hostname)"
`

// TestMachineFiles checks which files a machine shares with the host.
func TestMachineFiles(t *testing.T) {
	m := stage.NewMachine(t, stage.CgroupsHost)
	m.Output(t, exec.Command("test", "-s", "/etc/passwd")) // sees what was there
	shared := stage.Folder(t)
	for folder, want := range map[string]bool{"/etc": false, "/opt": false, "/var/lib": false, "/run": false, "/dev/shm": false, shared: true} {
		path := filepath.Join(folder, m.Name)
		m.Output(t, exec.Command("sh", "-c", "echo x >"+path+" && test -s "+path))
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("outside, %s: %v; shared is %v", path, err, want)
			_ = os.Remove(path)
		}
	}
}

// TestUmask checks that other users see a machine's files and a test's folder also
// if the test lets nobody see what it makes.
func TestUmask(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	m := stage.NewMachine(t, stage.CgroupsHost)
	cmd := exec.Command("sh", "-ec", `ls /etc /opt /var /run /dev/shm /sys/fs/cgroup /sys/fs/cgroup/* "$0"`, stage.Folder(t))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	m.Output(t, cmd)
}

// TestMachineOutside checks that an id in the machine leads to its process
// outside, and that another machine's like id does not.
func TestMachineOutside(t *testing.T) {
	m, other := stage.NewMachine(t, stage.CgroupsHost), stage.NewMachine(t, stage.CgroupsV2)
	for _, machine := range []*stage.Machine{m, other} {
		p := machine.Start(t, "shell", exec.Command("sh", "-c", "echo $$; sleep 600"))
		var inside int
		p.WaitReady(t, time.Minute, func() error {
			_, err := fmt.Sscan(p.Tail(100), &inside)
			return err
		})
		if outside := machine.Outside(inside); outside != p.PID {
			t.Errorf("%d in %s is %d outside, want %d", inside, machine.Name, outside, p.PID)
		}
	}
	if outside := m.Outside(1 << 22); outside != 0 {
		t.Errorf("an id that no process has is %d outside", outside)
	}
}

// TestMachineCgroups checks that a process in a machine may make a control group
// in each hierarchy and go into it.
func TestMachineCgroups(t *testing.T) {
	for _, show := range []stage.Cgroups{stage.CgroupsHost, stage.CgroupsV2} {
		made := stage.NewMachine(t, show).Output(t, exec.Command("sh", "-ec", `
for procs in $(find /sys/fs/cgroup -name cgroup.procs); do
	mine=$(dirname $procs)/mine
	mkdir $mine
	echo $$ >$mine/cgroup.procs
done
grep -c /mine$ /proc/self/cgroup`))
		if made == "0\n" {
			t.Errorf("%s: there are no control groups", show)
		}
	}
}

// TestMachineEnds checks that a machine ends with its test and takes with it what
// runs in it, and that nothing of it stays open in this program.
func TestMachineEnds(t *testing.T) {
	stage.Output(t, exec.Command("true")) // starts what stays: the keeper
	before := openFiles(t)
	var name string
	err := stage.Run(t.Context(), func(s *stage.Session) {
		m := stage.NewMachine(s, stage.CgroupsHost)
		name = m.Name
		m.Start(s, "daemon", exec.Command("sh", "-c", "setsid sleep 611 & exec sleep 601"))
		stage.Eventually(s, time.Minute, func() error { return sees(stage.RunID(), ": sleep 611") })
	})
	if err != nil {
		t.Fatal(err)
	}
	left, err := stage.Left(stage.RunID())
	if all := strings.Join(left, "\n"); err != nil || strings.Contains(all, name) || strings.Contains(all, ": sleep 611") {
		t.Errorf("after the end there is, %v:\n%s", err, all)
	}
	stage.Eventually(t, time.Minute, func() error { // pipes end a moment after their processes
		if after := openFiles(t); len(after) > len(before) {
			return fmt.Errorf("open are %v, before %v", after, before)
		}
		return nil
	})
}

func openFiles(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestMachineBuries checks that a machine's first process takes away those who
// have ended after their parents.
func TestMachineBuries(t *testing.T) {
	m := stage.NewMachine(t, stage.CgroupsHost)
	var orphan int
	if _, err := fmt.Sscan(m.Output(t, exec.Command("sh", "-c", "sleep 600 & echo $!")), &orphan); err != nil {
		t.Fatal(err)
	}
	stage.Eventually(t, time.Minute, func() error {
		if outside := m.Outside(orphan); outside != 0 {
			return fmt.Errorf("process %d, outside %d, is still there", orphan, outside)
		}
		return nil
	})
}

func TestMachineNetwork(t *testing.T) {
	m := stage.NewMachine(t, stage.CgroupsHost)
	l, err := m.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := m.DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatalf("from inside: %v", err)
	}
	defer conn.Close()
	if _, err := new(net.Dialer).DialContext(t.Context(), "tcp", l.Addr().String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("from outside: %v, want a refusal", err)
	}
}

func TestMachineCgroupsV2(t *testing.T) {
	m := stage.NewMachine(t, stage.CgroupsV2)
	if kind := strings.TrimSpace(m.Output(t, exec.Command("stat", "-fc", "%T", "/sys/fs/cgroup"))); kind != "cgroup2fs" {
		t.Errorf("/sys/fs/cgroup is %s", kind)
	}
}

// TestSession checks that a Session undoes what it did, the last first, also
// after a failure and one of a clean-up, and tells of both.
func TestSession(t *testing.T) {
	var undone []int
	err := stage.Run(context.Background(), func(s *stage.Session) {
		for i := range 3 {
			s.Cleanup(func() { undone = append(undone, i) })
		}
		s.Cleanup(func() {
			s.Cleanup(func() { undone = append(undone, 3) })
			if s.Context().Err() == nil {
				t.Error("the context has not ended before the clean-ups")
			}
			s.Fatalf("nor now")
		})
		s.Fatalf("no %s", "luck")
	})
	if err == nil || err.Error() != "no luck\nnor now" {
		t.Errorf("error %v", err)
	}
	if fmt.Sprint(undone) != "[3 2 1 0]" {
		t.Errorf("undone %v", undone)
	}
}

// TestMachineCover checks that what is written at a covered path stays out of the
// host's.
func TestMachineCover(t *testing.T) {
	m, folder := stage.NewMachine(t, stage.CgroupsHost), stage.Folder(t)
	m.Cover(t, "/usr/local", folder)
	m.Output(t, exec.Command("sh", "-c", "echo mine > /usr/local/"+m.Name))
	if got, err := os.ReadFile(filepath.Join(folder, m.Name)); err != nil || string(got) != "mine\n" {
		t.Errorf("in the folder that covers: %q, %v", got, err)
	}
	if _, err := os.Stat("/usr/local/" + m.Name); !os.IsNotExist(err) {
		t.Errorf("at the covered path of the host: %v, want nothing", err)
	}
}

// TestMachinePorts checks that a port of the machine is reached from outside,
// and one of the host from inside, only after the test has said so.
func TestMachinePorts(t *testing.T) {
	m, other := stage.NewMachine(t, stage.CgroupsHost), stage.NewMachine(t, stage.CgroupsHost)
	port := m.Publish(t)
	inside, err := m.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer inside.Close()
	if got := askOnce(t, inside, new(net.Dialer).DialContext); got != "answer" {
		t.Errorf("the machine's port says %q to the host", got)
	}
	outside, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer outside.Close()
	m.Offer(t, outside.Addr().(*net.TCPAddr).Port)
	if got := askOnce(t, outside, m.DialContext); got != "answer" {
		t.Errorf("the host's port says %q to the machine", got)
	}
	if _, err := other.DialContext(t.Context(), "tcp", outside.Addr().String()); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("from a machine that was offered nothing: %v, want a refusal", err)
	}
}

// askOnce connects to l's address by dial, and gives what l's side answers to
// the end of a question.
func askOnce(t *testing.T, l net.Listener, dial func(context.Context, string, string) (net.Conn, error)) string {
	t.Helper()
	answered := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			defer conn.Close()
			if _, err = io.ReadAll(conn); err == nil {
				_, err = conn.Write([]byte("answer"))
			}
		}
		answered <- err
	}()
	conn, err := dial(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(conn)
	if err := errors.Join(err, <-answered); err != nil {
		t.Fatal(err)
	}
	return string(got)
}
