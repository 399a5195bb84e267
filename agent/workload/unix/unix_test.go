package unix_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc/credentials"

	"github.com/authsec-ai/icp/agent/peer"
	"github.com/authsec-ai/icp/agent/workload"
	"github.com/authsec-ai/icp/agent/workload/unix"
	"github.com/authsec-ai/icp/identity"
)

// The test binary plays the workload too: with this variable set it connects to
// the socket named there and waits until its input ends.
const socketVariable = "ICP_TEST_WORKLOAD_SOCKET"

func TestMain(m *testing.M) {
	if path := os.Getenv(socketVariable); path != "" {
		conn, err := net.Dial("unix", path)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println("connected")
		_, _ = io.Copy(io.Discard, os.Stdin) // until the test is done
		_ = conn.Close()
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// scene is a folder with a socket, open to every user.
type scene struct {
	t      testing.TB
	dir    string
	socket *net.UnixListener
	creds  credentials.TransportCredentials
}

func newScene(t testing.TB) *scene {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("this test runs workloads as other users: run it as root")
	}
	dir, err := os.MkdirTemp("", "unix")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o755))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dir + "/sock", Net: "unix"})
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	must(t, os.Chmod(dir+"/sock", 0o777))
	return &scene{t: t, dir: dir, socket: l, creds: peer.Credentials(slog.New(slog.DiscardHandler))}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// program puts a copy of the workload at name in the scene's folder; mark makes
// its content different from others'.
func (s *scene) program(name, mark string) string {
	s.t.Helper()
	raw, err := os.ReadFile("/proc/self/exe")
	must(s.t, err)
	path := filepath.Join(s.dir, name)
	must(s.t, os.WriteFile(path, append(raw, mark...), 0o755))
	return path
}

// start runs a workload and gives it as the agent's socket sees it.
func (s *scene) start(cmd *exec.Cmd) *peer.Caller {
	s.t.Helper()
	cmd.Env = append(cmd.Env, socketVariable+"="+s.socket.Addr().String())
	cmd.Stderr = os.Stderr
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	_, err := cmd.StdinPipe()
	must(s.t, err)
	out, err := cmd.StdoutPipe()
	must(s.t, err)
	must(s.t, cmd.Start())
	s.t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended already
		_ = cmd.Wait()         // killed, so an error is expected
	})
	if line := bufio.NewScanner(out); !line.Scan() {
		s.t.Fatal("the workload did not connect")
	}
	conn, err := s.socket.Accept()
	must(s.t, err)
	secured, info, err := s.creds.ServerHandshake(conn)
	must(s.t, err)
	s.t.Cleanup(func() { _ = secured.Close() })
	return info.(*peer.Caller)
}

func as(cmd *exec.Cmd, uid, gid uint32) *exec.Cmd {
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
	return cmd
}

func attest(t testing.TB, caller *peer.Caller) identity.Selectors {
	t.Helper()
	got, err := workload.Attestors{"unix": unix.New()}.Attest(context.Background(), caller)
	must(t, err)
	return got.Selectors
}

func has(set identity.Selectors, value string) bool {
	return slices.Contains(set, identity.Selector{Type: "unix", Value: value})
}

// hasKey reports whether there is a selector of that key at all.
func hasKey(set identity.Selectors, key string) bool {
	return slices.ContainsFunc(set, func(s identity.Selector) bool { return strings.HasPrefix(s.Value, key+":") })
}

func digest(t testing.TB, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	must(t, err)
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

func TestSelectors(t *testing.T) {
	s := newScene(t)
	app := s.program("app", "")

	t.Run("WA-4/all", func(t *testing.T) {
		set := attest(t, s.start(as(exec.Command(app), 1, 1)))
		u, err := user.LookupId("1")
		must(t, err)
		g, err := user.LookupGroupId("1")
		must(t, err)
		want := []string{"uid:1", "gid:1", "user:" + u.Username, "group:" + g.Name, "path:" + app, "sha256:" + digest(t, app)}
		for _, w := range want {
			if !has(set, w) {
				t.Errorf("unix:%s is missing in %v", w, set)
			}
		}
		if len(set) != len(want) {
			t.Errorf("got %v, want %v", set, want)
		}
	})
	t.Run("WA-4/user-without-a-name", func(t *testing.T) {
		set := attest(t, s.start(as(exec.Command(app), 54321, 54321)))
		if !has(set, "uid:54321") || !has(set, "gid:54321") || hasKey(set, "user") || hasKey(set, "group") {
			t.Fatalf("got %v", set)
		}
	})
	t.Run("WA-4/symlink", func(t *testing.T) { // the program counts, not the link
		link := filepath.Join(s.dir, "link")
		must(t, os.Symlink(app, link))
		set := attest(t, s.start(exec.Command(link)))
		if !has(set, "path:"+app) || has(set, "path:"+link) {
			t.Fatalf("got %v", set)
		}
	})
	t.Run("WA-4/setuid", func(t *testing.T) { // the effective user counts
		suid := s.program("suid", "")
		must(t, os.Chown(suid, 2, 2))
		must(t, os.Chmod(suid, 0o755|os.ModeSetuid))
		set := attest(t, s.start(as(exec.Command(suid), 54321, 54321)))
		if !has(set, "uid:2") || has(set, "uid:54321") || !has(set, "gid:54321") {
			t.Fatalf("got %v", set)
		}
	})
	t.Run("WA-4/odd-paths", func(t *testing.T) {
		for _, name := range []string{"a=b:c", "with space", "ünï"} {
			path := s.program(name, "")
			if set := attest(t, s.start(exec.Command(path))); !has(set, "path:"+path) {
				t.Errorf("got %v", set)
			}
		}
		set := attest(t, s.start(exec.Command(s.program("line\nbreak", "")))) // T-29
		if hasKey(set, "path") || !has(set, "uid:0") {
			t.Errorf("got %v", set)
		}
	})
	t.Run("sha256-only-when-asked", func(t *testing.T) {
		a := workload.Attestors{"unix": unix.New()}
		a.OnlyFor(func(key string) bool { return key != "unix:sha256" })
		got, err := a.Attest(t.Context(), s.start(exec.Command(app)))
		must(t, err)
		if hasKey(got.Selectors, "sha256") || !has(got.Selectors, "path:"+app) {
			t.Fatalf("got %v", got.Selectors)
		}
	})
}

// WA-12: what runs counts, not what has been put in its place.
func TestSwappedProgram(t *testing.T) {
	s := newScene(t)
	app := s.program("app", "")
	before := digest(t, app)
	caller := s.start(exec.Command(app))
	t.Run("WA-12/twin", func(t *testing.T) {
		if set := attest(t, caller); !has(set, "sha256:"+before) || !has(set, "path:"+app) {
			t.Fatalf("got %v", set)
		}
	})
	t.Run("WA-12/refused", func(t *testing.T) {
		must(t, os.Rename(s.program("new", "tampered"), app))
		set := attest(t, caller)
		if !has(set, "sha256:"+before) || has(set, "sha256:"+digest(t, app)) {
			t.Fatalf("the digest is not of the program that runs: %v", set)
		}
		if hasKey(set, "path") {
			t.Fatalf("a program that is no longer at its path has that path: %v", set)
		}
		after := attest(t, s.start(exec.Command(app)))
		if !has(after, "sha256:"+digest(t, app)) || has(after, "sha256:"+before) {
			t.Fatalf("the new program has the old digest: %v", after)
		}
	})
	t.Run("WA-12/refused/deleted", func(t *testing.T) {
		must(t, os.Remove(app))
		set := attest(t, caller)
		if !has(set, "sha256:"+before) || hasKey(set, "path") {
			t.Fatalf("got %v", set)
		}
		// Nor does a file that has the text which the kernel gives for it.
		must(t, os.Rename(s.program("other", ""), app+" (deleted)"))
		if set := attest(t, caller); hasKey(set, "path") {
			t.Fatalf("got %v", set)
		}
	})
}

// Whoever can make a user namespace can mount its own file over any path.
func TestFakedPath(t *testing.T) {
	s := newScene(t)
	target, evil := s.program("target", ""), s.program("evil", "evil")
	script := `mount --bind "$1" "$2" && exec "$2"`
	inside := exec.Command("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", evil, target)
	caller := s.start(inside)
	t.Run("WA-4/refused/own-user-namespace", func(t *testing.T) {
		set := attest(t, caller)
		if hasKey(set, "path") || !has(set, "sha256:"+digest(t, evil)) {
			t.Fatalf("got %v", set)
		}
	})
	t.Run("WA-4/refused/from-another-root", func(t *testing.T) {
		// The kernel gives target as the path of this one, which has no namespace of its own.
		set := attest(t, s.start(exec.Command(fmt.Sprintf("/proc/%d/root%s", caller.PID, target))))
		if hasKey(set, "path") || !has(set, "sha256:"+digest(t, evil)) {
			t.Fatalf("got %v", set)
		}
	})
	t.Run("WA-4/twin", func(t *testing.T) {
		if set := attest(t, s.start(exec.Command(target))); !has(set, "path:"+target) {
			t.Fatalf("got %v", set)
		}
	})
	t.Run("WA-4/twin/container", func(t *testing.T) { // a mount namespace that took privilege to make
		set := attest(t, s.start(exec.Command("unshare", "--mount", "sh", "-c", script, "sh", evil, target)))
		if !has(set, "path:"+target) || !has(set, "sha256:"+digest(t, evil)) {
			t.Fatalf("got %v", set)
		}
	})
}

// WA-9: nothing that a process says about itself is a selector.
func TestSpoof(t *testing.T) {
	s := newScene(t)
	app := s.program("app", "")
	honest := attest(t, s.start(as(exec.Command(app), 1000, 1000)))
	liar := as(exec.Command(app), 1000, 1000)
	liar.Args = []string{"/usr/bin/root-program", "unix:uid:0", "x-pid: 1"}
	liar.Env = []string{"USER=root", "LOGNAME=root", "UID=0", "HOME=/root", "POD_LABEL_APP=admin", "X_K8S_NAMESPACE=prod"}
	if got := attest(t, s.start(liar)); !slices.Equal(got, honest) {
		t.Fatalf("WA-9: lies changed %v to %v", honest, got)
	}
	other := attest(t, s.start(as(exec.Command(app), 1001, 1000)))
	if slices.Equal(other, honest) {
		t.Fatal("WA-9/twin: another user has the same selectors")
	}
}

// Attestation ends with the caller, and never with a part of the truth.
func TestDenied(t *testing.T) {
	s := newScene(t)
	app := s.program("app", "")
	t.Run("T-31/refused", func(t *testing.T) {
		cmd := exec.Command(app)
		caller := s.start(cmd)
		must(t, cmd.Process.Kill())
		_ = cmd.Wait() // killed, so an error is expected
		_, err := workload.Attestors{"unix": unix.New()}.Attest(t.Context(), caller)
		wantDenied(t, err)
	})
	t.Run("T-18/refused", func(t *testing.T) {
		_, err := workload.Attestors{"unix": unix.New(), "broken": failing{}}.Attest(t.Context(), s.start(exec.Command(app)))
		wantDenied(t, err)
		if strings.Contains(identity.MessageOf(err), "disk on fire") {
			t.Fatal("the caller is told the cause")
		}
	})
	t.Run("T-29/refused", func(t *testing.T) { // an attestor that speaks for another
		_, err := workload.Attestors{"other": unix.New()}.Attest(t.Context(), s.start(exec.Command(app)))
		wantDenied(t, err)
	})
	t.Run("T-31/refused/during", func(t *testing.T) {
		cmd := exec.Command(app)
		caller := s.start(cmd)
		_, err := workload.Attestors{"unix": killer{cmd}}.Attest(t.Context(), caller)
		wantDenied(t, err)
	})
}

func wantDenied(t *testing.T, err error) {
	t.Helper()
	if identity.CodeOf(err) != identity.Denied {
		t.Fatalf("got %v (code %q)", err, identity.CodeOf(err))
	}
}

type failing struct{}

func (failing) Attest(context.Context, *peer.Caller) ([]identity.Selector, error) {
	return nil, fmt.Errorf("disk on fire")
}

// killer ends the caller while it is attested.
type killer struct{ cmd *exec.Cmd }

func (k killer) Attest(context.Context, *peer.Caller) ([]identity.Selector, error) {
	err := k.cmd.Process.Kill()
	_ = k.cmd.Wait() // killed, so an error is expected
	return []identity.Selector{{Type: "unix", Value: "uid:0"}}, err
}

// Evidence tells callers apart that have the same selectors.
func TestEvidence(t *testing.T) {
	s := newScene(t)
	app := s.program("app", "")
	a := workload.Attestors{"unix": unix.New()}
	caller := s.start(exec.Command(app))
	first, err := a.Attest(t.Context(), caller)
	must(t, err)
	again, err := a.Attest(t.Context(), caller)
	must(t, err)
	second, err := a.Attest(t.Context(), s.start(exec.Command(app)))
	must(t, err)
	if first.Evidence != again.Evidence || first.Evidence == second.Evidence || len(first.Evidence) != 64 {
		t.Fatalf("AG-7: evidence %s, %s, %s", first.Evidence, again.Evidence, second.Evidence)
	}
	if !slices.Equal(first.Selectors, second.Selectors) {
		t.Fatal("two processes of one program have different selectors")
	}
}

func BenchmarkAttest(b *testing.B) {
	s := newScene(b)
	caller := s.start(exec.Command(s.program("app", "")))
	a := workload.Attestors{"unix": unix.New()}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Attest(context.Background(), caller); err != nil {
			b.Fatal(err)
		}
	}
}
