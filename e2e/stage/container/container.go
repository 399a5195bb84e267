// Package container runs containers by the command line that docker and podman
// share. Packages docker and podman start the engines.
package container

import (
	"bytes"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/e2e/stage/image"
)

// Engine is a docker or podman in a machine of its own. Its containers end with it.
type Engine struct {
	Machine *stage.Machine
	Command []string // the program and what it always needs
	Env     []string // what the program gets beyond this process's environment
}

// Spec says what a container is.
type Spec struct {
	Image        string // name with tag, or id
	Name         string // the engine makes one up if empty
	Labels       map[string]string
	Args         []string // after the image's entrypoint
	Env          []string // "NAME=value"
	Mounts       []string // "/on/this/host:/in/the/container", ":ro" after it if wanted
	User         string   // "1000:1000"; the image's if empty
	Network      string   // "none", "host", "container:NAME"; the engine's bridge if empty
	PID          string   // "host" is the machine's; a namespace of its own if empty
	CgroupParent string   // control group above the container's; the engine's if empty
}

// Container is a container that an Engine has started. It lives until it is
// removed or the engine ends.
type Container struct {
	ID         string // 64 hex digits
	Name       string
	PID        int // of its first process, as seen from outside of the machine; 0 if that has ended already
	MachinePID int // the same as seen in the machine, where the engine is

	engine *Engine
}

// Do runs a command of the engine to its end and gives what it printed to
// standard output; a failure fails the test.
func (e *Engine) Do(t stage.T, args ...string) string {
	t.Helper()
	var out, complaint bytes.Buffer
	if err := e.run(t, &out, &complaint, args); err != nil {
		t.Fatalf("%s %s: %v\n%s%s", e.Command[0], strings.Join(args, " "), err, &out, &complaint)
	}
	return strings.TrimSpace(out.String())
}

func (e *Engine) run(t stage.T, out, complaint io.Writer, args []string) error {
	t.Helper()
	cmd := exec.Command(e.Command[0], append(slices.Clone(e.Command[1:]), args...)...)
	cmd.Env = append(cmd.Environ(), e.Env...)
	cmd.Stdout, cmd.Stderr = out, complaint
	return e.Machine.Start(t, "command", cmd).Err()
}

// Load gives the engine an image.
func (e *Engine) Load(t stage.T, img image.Image) {
	t.Helper()
	e.Do(t, "load", "--quiet", "--input", img.File)
}

// Run starts a container and does not wait for its end.
func (e *Engine) Run(t stage.T, spec Spec) *Container {
	t.Helper()
	c := &Container{engine: e, ID: e.Do(t, append([]string{"run", "--detach"}, spec.args()...)...)}
	seen := strings.Fields(c.Inspect(t, "{{.Name}} {{.State.Pid}}"))
	c.Name = strings.TrimPrefix(seen[0], "/")
	pid, err := strconv.Atoi(seen[1])
	if err != nil {
		t.Fatalf("run %s: its process id is %q", spec.Image, seen[1])
	}
	if c.PID = e.Machine.Outside(pid); c.PID != 0 {
		c.MachinePID = pid
	}
	return c
}

func (s Spec) args() []string {
	var args []string
	option := func(name, value string) {
		if value != "" {
			args = append(args, name, value)
		}
	}
	option("--name", s.Name)
	option("--user", s.User)
	option("--network", s.Network)
	option("--pid", s.PID)
	option("--cgroup-parent", s.CgroupParent)
	for name, value := range s.Labels {
		option("--label", name+"="+value)
	}
	for _, env := range s.Env {
		option("--env", env)
	}
	for _, mount := range s.Mounts {
		option("--volume", mount)
	}
	return append(append(args, s.Image), s.Args...)
}

// Inspect asks the engine about the container; format is a Go template over what
// "inspect" shows, such as "{{.Image}}".
func (c *Container) Inspect(t stage.T, format string) string {
	t.Helper()
	return c.engine.Do(t, "container", "inspect", "--format", format, c.ID)
}

// Logs gives what the container has printed.
func (c *Container) Logs(t stage.T) string {
	t.Helper()
	var out bytes.Buffer
	if err := c.engine.run(t, &out, &out, []string{"logs", c.ID}); err != nil {
		t.Fatalf("read what %s has printed: %v\n%s", c.Name, err, &out)
	}
	return out.String()
}

// Exec runs a command in the container to its end and gives what it printed to
// standard output; a failure fails the test.
func (c *Container) Exec(t stage.T, command ...string) string {
	t.Helper()
	return c.engine.Do(t, append([]string{"exec", c.ID}, command...)...)
}

// Spawn starts a command in the container and does not wait for its end.
func (c *Container) Spawn(t stage.T, command ...string) {
	t.Helper()
	c.engine.Do(t, append([]string{"exec", "--detach", c.ID}, command...)...)
}

// Wait waits until the container has ended and gives its exit code.
func (c *Container) Wait(t stage.T) int {
	t.Helper()
	code, err := strconv.Atoi(c.engine.Do(t, "wait", c.ID))
	if err != nil {
		t.Fatalf("wait for %s: %v", c.Name, err)
	}
	return code
}

// Stop asks the container to end (SIGTERM) and kills it after ten seconds.
func (c *Container) Stop(t stage.T) {
	t.Helper()
	c.engine.Do(t, "stop", c.ID)
}

// Kill ends the container at once (SIGKILL).
func (c *Container) Kill(t stage.T) {
	t.Helper()
	c.engine.Do(t, "kill", c.ID)
}

// Remove ends the container at once, if need be, and has the engine forget it.
func (c *Container) Remove(t stage.T) {
	t.Helper()
	c.engine.Do(t, "rm", "--force", c.ID)
}

// With gives the ids of the running containers that have a label, as the engine
// says.
func (e *Engine) With(t stage.T, label, value string) []string {
	t.Helper()
	return strings.Fields(e.Do(t, "ps", "--quiet", "--no-trunc", "--filter", fmt.Sprintf("label=%s=%s", label, value)))
}
