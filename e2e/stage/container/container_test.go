package container_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/e2e/stage/container"
	"github.com/authsec-ai/icp/e2e/stage/docker"
	"github.com/authsec-ai/icp/e2e/stage/door"
	"github.com/authsec-ai/icp/e2e/stage/image"
	"github.com/authsec-ai/icp/e2e/stage/peer"
	"github.com/authsec-ai/icp/e2e/stage/podman"
)

// engines are started by what both have in common.
var engines = map[string]func(t stage.T) *container.Engine{
	"docker": func(t stage.T) *container.Engine { return &docker.Start(t, docker.Options{}).Engine },
	"podman": func(t stage.T) *container.Engine { return &podman.Start(t, podman.Options{}).Engine },
}

// onEach calls f with each engine and the name of an image of the probe in it.
func onEach(t *testing.T, f func(t *testing.T, e *container.Engine, probe string)) {
	for name, start := range engines {
		t.Run(name, func(t *testing.T) {
			e := start(t)
			img := image.OfProbe(t, "icp.test/probe:1", nil)
			e.Load(t, img)
			f(t, e, img.Name)
		})
	}
}

// TestSpec checks that a container is what its Spec says.
func TestSpec(t *testing.T) {
	onEach(t, func(t *testing.T, e *container.Engine, probe string) {
		d := door.Open(t)
		c := e.Run(t, container.Spec{
			Image: probe, Name: "given", Labels: map[string]string{"team": "a b"}, Env: []string{"COLOUR=red"},
			User: "1234:2345", Network: "none", PID: "host", CgroupParent: "/elsewhere",
			Mounts: []string{d.Dir + ":/door:ro"}, Args: []string{"connect", "/door/" + d.Name, "given"},
		})
		seen := d.Hear(t, "given")
		if seen.UID != 1234 || seen.GID != 2345 {
			t.Errorf("the process runs as %d:%d", seen.UID, seen.GID)
		}
		if path := seen.Cgroup(); !strings.HasPrefix(path, "/"+e.Machine.Name+"/elsewhere/") || container.ID(path) != c.ID {
			t.Errorf("the control group is %s; want one for %s below /elsewhere", path, c.ID)
		}
		if own := fmt.Sprint(e.Machine.Outside(1)); seen.Namespaces["pid"] != link(t, own, "pid") {
			t.Error("the process ids are not the machine's")
		}
		if seen.Namespaces["net"] == link(t, fmt.Sprint(e.Machine.Outside(1)), "net") {
			t.Error("the network is the machine's")
		}
		if address := c.Inspect(t, "{{.NetworkSettings.IPAddress}}"); address != "" {
			t.Errorf("without a network the address is %s", address)
		}
		got := c.Inspect(t, `{{.Name}} {{index .Config.Labels "team"}} {{.Config.Env}}`)
		if !strings.HasPrefix(strings.TrimPrefix(got, "/"), "given a b ") || !strings.Contains(got, "COLOUR=red") || c.Name != "given" {
			t.Errorf("the engine says %q", got)
		}
	})
}

// TestImage checks that a container without a say is what its image says.
func TestImage(t *testing.T) {
	onEach(t, func(t *testing.T, e *container.Engine, _ string) {
		d := door.Open(t)
		img := image.Write(t, image.Spec{
			Name: "icp.test/whole:1.2", Binary: image.Probe(t), Entrypoint: []string{"/probe", "connect"},
			Cmd: []string{"/door/" + d.Name, "whole"}, Env: []string{"COLOUR=red"}, User: "7:8",
		})
		e.Load(t, img)
		c := e.Run(t, container.Spec{Image: img.Name, Mounts: []string{d.Dir + ":/door"}})
		if who := d.Hear(t, "whole"); who.UID != 7 || who.GID != 8 || who.PID != c.PID {
			t.Errorf("the caller is %d:%d in pid %d; want 7:8 in pid %d", who.UID, who.GID, who.PID, c.PID)
		}
		if env := c.Inspect(t, "{{.Config.Env}}"); !strings.Contains(env, "COLOUR=red") {
			t.Errorf("the environment is %s", env)
		}
	})
}

func link(t *testing.T, pid, kind string) string {
	t.Helper()
	target, err := os.Readlink(filepath.Join("/proc", pid, "ns", kind))
	if err != nil {
		t.Fatal(err)
	}
	return target
}

// TestNetwork has one container get a page from another by the engine's bridge,
// and fail where nobody listens.
func TestNetwork(t *testing.T) {
	onEach(t, func(t *testing.T, e *container.Engine, probe string) {
		server := e.Run(t, container.Spec{Image: probe, Args: []string{"http", ":80"}})
		address := server.Inspect(t, "{{.NetworkSettings.IPAddress}}")
		stage.Eventually(t, time.Minute, func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			conn, err := e.Machine.DialContext(ctx, "tcp", address+":80")
			if err == nil {
				_ = conn.Close()
			}
			return err
		})
		good := e.Run(t, container.Spec{Image: probe, Args: []string{"get", "http://" + address}})
		if code, page := good.Wait(t), good.Logs(t); code != 0 || strings.TrimSpace(page) != server.ID[:12] {
			t.Errorf("exit code %d, page %q; want the host name %s", code, page, server.ID[:12])
		}
		bad := e.Run(t, container.Spec{Image: probe, Args: []string{"get", "http://" + address + ":81"}})
		if code, page := bad.Wait(t), bad.Logs(t); code != 1 || !strings.Contains(page, "connection refused") {
			t.Errorf("where nobody listens: exit code %d, %q", code, page)
		}
	})
}

// TestEnd checks how containers end.
func TestEnd(t *testing.T) {
	onEach(t, func(t *testing.T, e *container.Engine, probe string) {
		for _, end := range []struct {
			how  string
			end  func(c *container.Container)
			code int
		}{
			{"stopped", func(c *container.Container) { c.Stop(t) }, 0},
			{"killed", func(c *container.Container) { c.Kill(t) }, 137},
			{"killed from outside", func(c *container.Container) { kill(t, c.PID) }, 137},
		} {
			c := e.Run(t, container.Spec{Image: probe})
			mounted := len(overlays(t, e))
			if word := c.Exec(t, "/probe", "print", "word"); word != "word" {
				t.Errorf("a command in the container prints %q", word)
			}
			end.end(c)
			if code := c.Wait(t); code != end.code {
				t.Errorf("%s: exit code %d, want %d", end.how, code, end.code)
			}
			c.Remove(t)
			if err := syscall.Kill(c.PID, 0); !errors.Is(err, syscall.ESRCH) {
				t.Errorf("%s: looking for pid %d: %v, want no such process", end.how, c.PID, err)
			}
			if now := len(overlays(t, e)); now != mounted-1 {
				t.Errorf("%s: %d overlays are mounted, before it were %d", end.how, now, mounted)
			}
			if groups := groupsOf(t, c.ID); len(groups) > 0 {
				t.Errorf("%s: control groups stay: %v", end.how, groups)
			}
		}
	})
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// overlays gives the overlays of containers that are mounted in the machine.
func overlays(t *testing.T, e *container.Engine) []string {
	t.Helper()
	var found []string
	for line := range strings.Lines(e.Machine.Output(t, exec.Command("cat", "/proc/self/mountinfo"))) {
		if strings.Contains(line, "/merged ") && strings.Contains(line, "- overlay ") {
			found = append(found, line)
		}
	}
	return found
}

func groupsOf(t *testing.T, id string) []string {
	t.Helper()
	return strings.Fields(stage.Output(t, exec.Command("find", "/sys/fs/cgroup", "-name", "*"+id+"*")))
}

// TestInside checks what a process in the machine, as an agent there would, sees
// of a caller in a container.
func TestInside(t *testing.T) {
	onEach(t, func(t *testing.T, e *container.Engine, probe string) {
		dir := stage.Folder(t)
		listener := e.Machine.Start(t, "listener", exec.Command(image.Probe(t), "listen", filepath.Join(dir, "sock")))
		c := e.Run(t, container.Spec{Image: probe, Args: []string{"connect", "/d/sock", "hello"}, Mounts: []string{dir + ":/d"}})
		var seen peer.Peer
		listener.WaitReady(t, time.Minute, func() error {
			line, _, _ := strings.Cut(listener.Tail(1<<20), "\n")
			return json.Unmarshal([]byte(line), &seen)
		})
		if seen.PID != c.MachinePID || seen.PID == c.PID || container.ID(seen.Cgroup()) != c.ID {
			t.Errorf("seen in the machine: pid %d in %s; want %d and %s", seen.PID, seen.Cgroup(), c.MachinePID, c.ID)
		}
		stage.Eventually(t, time.Minute, func() error { // the answer has reached the caller
			if logs := c.Logs(t); !strings.Contains(logs, fmt.Sprintf(`{"pid":%d,`, c.MachinePID)) {
				return fmt.Errorf("the container has printed %q", logs)
			}
			return nil
		})
	})
}

// TestForeign checks that a process in a container is told of no id when its
// caller is in none that it can see: every such caller looks the same to it.
func TestForeign(t *testing.T) {
	onEach(t, func(t *testing.T, e *container.Engine, probe string) {
		dir := stage.Folder(t)
		e.Run(t, container.Spec{Image: probe, Args: []string{"listen", "/d/sock"}, Mounts: []string{dir + ":/d"}})
		caller := stage.Start(t, "caller", exec.Command(image.Probe(t), "connect", filepath.Join(dir, "sock"), "hello"))
		caller.WaitReady(t, time.Minute, func() error {
			if said := caller.Tail(1 << 20); !strings.Contains(said, `{"pid":0,"uid":0,"gid":0,"cgroups":"","namespaces":{},"said":"hello"}`) {
				return fmt.Errorf("the caller hears %q", said)
			}
			return nil
		})
	})
}

func TestID(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	for path, want := range map[string]string{
		"/docker/" + id: id, "/m/libpod_parent/libpod-" + id: id, "/kubepods/pod1/" + id: id,
		"/docker/" + id + "/child": "", "/docker/" + id[1:]: "", "/docker/" + strings.ToUpper(id): "", "/": "", "": "",
	} {
		if got := container.ID(path); got != want {
			t.Errorf("%q: %q, want %q", path, got, want)
		}
	}
}
