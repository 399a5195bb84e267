package container

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/e2e/stage/door"
	"github.com/authsec-ai/icp/e2e/stage/image"
	"github.com/authsec-ai/icp/e2e/stage/peer"
)

// Prove shows that the kernel's view of a caller leads to one container of the
// engine and its label, and that of another caller does not; it gives the fact.
// path is what stands before a container's id in its control group.
func (e *Engine) Prove(t stage.T, path string) string {
	t.Helper()
	d := door.Open(t)
	front, back := e.caller(t, d, "frontend"), e.caller(t, d, "backend")
	for _, c := range []caller{front, back} {
		if ids := e.With(t, "app", c.app); !slices.Equal(ids, []string{c.id(t)}) {
			t.Fatalf("the engine says app=%s is %v; the kernel says that who says so is in %s", c.app, ids, c.id(t))
		}
		c.check(t, path)
		c.checkSecond(t, d)
	}
	return fmt.Sprintf("pid %d is in %s%.12s…, so app=frontend, image %s %.19s…; pid %d is in %.12s…, so app=backend and not frontend; the id is in %s",
		front.seen.PID, path, front.id(t), front.image.Name, front.image.ID, back.seen.PID, back.id(t), front.hierarchies())
}

// caller is a container with the image it is made from, and the kernel's view of
// its process.
type caller struct {
	*Container
	app   string
	image image.Image
	seen  peer.Peer
}

// caller starts a container of an image of its own, with app as label, which
// knocks and says app.
func (e *Engine) caller(t stage.T, d *door.Door, app string) caller {
	t.Helper()
	img := image.OfProbe(t, "icp.test/"+app+":1.2", map[string]string{"app": app})
	e.Load(t, img)
	c := e.Run(t, Spec{Image: img.Name, Args: []string{"connect", "/door/" + d.Name, app}, Mounts: []string{d.Dir + ":/door"}})
	return caller{c, app, img, d.Hear(t, app)}
}

// id gives the container's id from the control group that the kernel names.
func (c caller) id(t stage.T) string {
	t.Helper()
	id := ID(c.seen.Cgroup())
	if id == "" {
		t.Fatalf("no container id in the control groups of pid %d:\n%s", c.seen.PID, c.seen.Cgroups)
	}
	return id
}

// ID gives the container's id from a control group's path: the 64 hex digits
// that its last part ends in; empty if it does not.
func ID(cgroup string) string {
	name := filepath.Base(cgroup)
	id := name[max(0, len(name)-64):]
	if len(id) < 64 || strings.Trim(id, "0123456789abcdef") != "" {
		return ""
	}
	return id
}

// check compares what the kernel and the engine say of the container, outside
// and inside of the machine.
func (c caller) check(t stage.T, path string) {
	t.Helper()
	m := c.engine.Machine
	if want := "/" + m.Name + path + c.ID; c.seen.PID != c.PID || c.seen.Cgroup() != want {
		t.Fatalf("the kernel says pid %d in %s; the engine says pid %d, which should be in %s", c.seen.PID, c.seen.Cgroup(), c.PID, want)
	}
	inside := m.Output(t, exec.Command("cat", fmt.Sprintf("/proc/%d/cgroup", c.MachinePID)))
	if want := "\n0::" + path + c.ID + "\n"; !strings.Contains("\n"+inside, want) {
		t.Fatalf("seen in the machine, pid %d is in\n%s, not in %s", c.MachinePID, inside, want)
	}
	seen := strings.Fields(c.Inspect(t, "{{.Image}} {{.Config.Image}}"))
	if "sha256:"+strings.TrimPrefix(seen[0], "sha256:") != c.image.ID || seen[1] != c.image.Name {
		t.Fatalf("the engine says image %v, want %s %s", seen, c.image.ID, c.image.Name)
	}
}

// checkSecond checks that another process in the container has its control group.
func (c caller) checkSecond(t stage.T, d *door.Door) {
	t.Helper()
	word := c.Name + " again"
	c.Spawn(t, "/probe", "connect", "/door/"+d.Name, word)
	if second := d.Hear(t, word); second.PID == c.PID || second.Cgroups != c.seen.Cgroups {
		t.Fatalf("another process of the container is pid %d in\n%s; its first is pid %d in\n%s", second.PID, second.Cgroups, c.PID, c.seen.Cgroups)
	}
}

// hierarchies says how many of the control group hierarchies name the container.
func (c caller) hierarchies() string {
	lines := strings.Split(strings.TrimSpace(c.seen.Cgroups), "\n")
	named := 0
	for _, line := range lines {
		if ID(line) == c.ID {
			named++
		}
	}
	return fmt.Sprintf("%d of %d hierarchies", named, len(lines))
}
