package dev

import (
	"bytes"
	"database/sql"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	_ "modernc.org/sqlite"

	"github.com/authsec-ai/icp/e2e/devtest"
	"github.com/authsec-ai/icp/e2e/stage"
)

// nobody is a user without rights.
const nobody = 65534

// run is one `icp dev` that is expected to end by itself.
type run struct {
	code           int
	stdout, stderr string
}

func runDev(t *testing.T, uid int, args ...string) run {
	t.Helper()
	var out, printed bytes.Buffer
	cmd := command(t, uid, args...)
	cmd.Stdout, cmd.Stderr = &out, &printed
	process := stage.Start(t, "icp-dev", cmd)
	var exit *exec.ExitError
	if err := process.Err(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return run{code: cmd.ProcessState.ExitCode(), stdout: out.String(), stderr: printed.String()}
}

// command makes `icp dev` as a user. The program goes by descriptor: another
// user may not be allowed to walk to it.
func command(t *testing.T, uid int, args ...string) *exec.Cmd {
	t.Helper()
	program, err := os.Open(stage.Program(t, "icp"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	cmd := exec.CommandContext(t.Context(), "/proc/self/fd/3", append([]string{"dev"}, args...)...)
	cmd.ExtraFiles = []*os.File{program}
	cmd.Dir = "/"
	if uid != os.Getuid() {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	}
	return cmd
}

// check wants one line that says what is wrong and what to do.
func (r run) check(t *testing.T, want ...string) {
	t.Helper()
	line, rest, whole := strings.Cut(r.stderr, "\n")
	if r.code == 0 || r.stdout != "" || !whole || rest != "" {
		t.Errorf("exit status %d, standard output %q, standard error %q; want one line on standard error, and no success",
			r.code, r.stdout, r.stderr)
	}
	for _, part := range want {
		if !strings.Contains(line, part) {
			t.Errorf("the line is %q; want it to say %q", line, part)
		}
	}
	t.Log(line)
}

func TestRefusals(t *testing.T) {
	asRoot(t)
	used := filepath.Join(stage.Folder(t), "dev") // a folder with everything in it
	live := devtest.StartOn(t, used)
	t.Run("second on a live folder", func(t *testing.T) {
		runDev(t, os.Getuid(), "--dir", used).check(t, "is running on "+used, "stop it, or choose another --dir")
		if _, err := live.Workload(t).FetchX509SVID(t.Context()); err != nil {
			t.Errorf("the first was harmed: %v", err)
		}
	})
	if err := live.Stop(); err != nil {
		t.Fatal(err)
	}
	t.Run("busy port", func(t *testing.T) { busyPorts(t, used) })
	t.Run("folder not writable", func(t *testing.T) {
		dir := stage.Folder(t)
		runDev(t, nobody, "--dir", dir).check(t, "cannot write in "+dir, "permission denied", "choose another --dir")
		runDev(t, nobody, "--dir", dir+"/new").check(t, "cannot make the folder", "permission denied", "choose another --dir")
	})
	t.Run("folder is a file", func(t *testing.T) {
		runDev(t, os.Getuid(), "--dir", filepath.Join(used, "ports.json")).check(t, "not a directory", "choose another --dir")
	})
	t.Run("socket path too long", func(t *testing.T) { longPath(t) })
	t.Run("not loopback", func(t *testing.T) {
		dir := filepath.Join(stage.Folder(t), "dev")
		for _, address := range []string{"0.0.0.0:0", "192.0.2.1:8443", "example.org:8443"} {
			runDev(t, os.Getuid(), "--dir", dir, "--listen", address).check(t, "--listen "+address, "loopback", "127.0.0.1:8443")
		}
		runDev(t, os.Getuid(), "--dir", dir, "--listen", "8443").check(t, "--listen 8443", "address:port")
	})
	t.Run("data version", func(t *testing.T) { dataVersions(t, used) })
	t.Run("damaged database", func(t *testing.T) {
		dir := copyOf(t, used)
		for _, suffix := range []string{"-wal", "-shm"} {
			if err := os.Remove(filepath.Join(dir, "icp.db"+suffix)); err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, "icp.db"), bytes.Repeat([]byte("no database "), 1000), 0o600); err != nil {
			t.Fatal(err)
		}
		runDev(t, os.Getuid(), "--dir", dir).check(t, "icp.db", "restore it from a backup")
	})
	t.Run("twin", func(t *testing.T) { // what was refused above starts without the obstacle
		if err := devtest.StartOn(t, copyOf(t, used)).Stop(); err != nil {
			t.Fatal(err)
		}
	})
}

func asRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("this test runs programs as other users: run it as root")
	}
}

// busyPorts takes each remembered port in turn. dev.json, which tells others
// where to go, must not outlive a failed start.
func busyPorts(t *testing.T, used string) {
	raw, err := os.ReadFile(filepath.Join(used, "ports.json"))
	if err != nil {
		t.Fatal(err)
	}
	var ports map[string]string
	if err := json.Unmarshal(raw, &ports); err != nil {
		t.Fatal(err)
	}
	if len(ports) != 5 {
		t.Errorf("ports.json has %d ports, want 5: %s", len(ports), raw)
	}
	for name, address := range ports {
		t.Run(name, func(t *testing.T) {
			holder, err := net.Listen("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer holder.Close()
			if err := os.WriteFile(filepath.Join(used, "dev.json"), []byte("{}"), 0o644); err != nil {
				t.Fatal(err)
			}
			runDev(t, os.Getuid(), "--dir", used).check(t, ": "+address+" is in use", "remove "+used+"/ports.json to choose new ports")
			if _, err := os.Stat(filepath.Join(used, "dev.json")); !os.IsNotExist(err) {
				t.Errorf("dev.json of an earlier run is still there (%v)", err)
			}
		})
	}
}

// longPath finds both sides of the limit.
func longPath(t *testing.T) {
	base := stage.Folder(t)
	dir := func(length int) string { // such that the socket's path has this length
		return base + "/" + strings.Repeat("d", length-len(base)-len("//agent.sock"))
	}
	runDev(t, os.Getuid(), "--dir", dir(108)).check(t, "108 bytes", "allows 107", "choose a shorter --dir")
	if _, err := os.Stat(dir(108)); !os.IsNotExist(err) {
		t.Errorf("it made the folder all the same (%v)", err)
	}
	if _, err := devtest.StartOn(t, dir(107)).Workload(t).FetchX509SVID(t.Context()); err != nil {
		t.Errorf("107 bytes: %v", err)
	}
}

func dataVersions(t *testing.T, used string) {
	for _, c := range []struct{ name, change, want string }{
		{"newer", "UPDATE icp_schema SET version = 99", "run the newer program"},
		{"unknown", "DELETE FROM icp_schema", "no data version"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := copyOf(t, used)
			db, err := sql.Open("sqlite", filepath.Join(dir, "icp.db"))
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			if _, err := db.Exec(c.change); err != nil {
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			runDev(t, os.Getuid(), "--dir", dir).check(t, filepath.Join(dir, "icp.db"), c.want)
		})
	}
}

// copyOf copies a folder that nobody uses, and lets the copy choose new ports.
func copyOf(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(stage.Folder(t), "dev")
	stage.Output(t, exec.Command("cp", "-a", dir, to))
	if err := os.Remove(filepath.Join(to, "ports.json")); err != nil {
		t.Fatal(err)
	}
	return to
}

// TestOtherUser runs everything as a user without rights.
func TestOtherUser(t *testing.T) {
	asRoot(t)
	base := stage.Folder(t)
	if err := os.Chown(base, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(base, "dev")
	process := stage.Start(t, "icp-dev", command(t, nobody, "--dir", dir))
	process.WaitReady(t, devtest.Patience, func() error {
		_, err := os.Stat(filepath.Join(dir, "dev.json"))
		return err
	})
	printed := process.Tail(4096)
	if !strings.Contains(printed, "not running as root") || !strings.Contains(printed, "cannot be attested") {
		t.Errorf("it printed %q; want it to say what cannot be attested", printed)
	}
	info := checkInfo(t, dir)
	fetch := command(t, nobody)
	fetch.Args = []string{"icp", "api", "fetch", "x509", "--output", "json"}
	fetch.Env = []string{"SPIFFE_ENDPOINT_SOCKET=" + info.AgentSocket}
	if out := stage.Output(t, fetch); !strings.Contains(out, info.TrustDomain+"/dev") {
		t.Errorf("its own user gets %s; want the default identity", out)
	}
	if err := process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := process.Err(); err != nil {
		t.Errorf("SIGTERM: it ended with %v; want exit status 0", err)
	}
}
