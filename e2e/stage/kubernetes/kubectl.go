package kubernetes

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/authsec-ai/icp/e2e/stage"
)

// Kubectl runs kubectl as the administrator and gives what it printed; a failure
// fails the test.
func (c *ControlPlane) Kubectl(t stage.T, args ...string) string {
	t.Helper()
	return c.mustKubectl(t, "", args...)
}

// Apply applies objects, given as YAML, on the server's side; flags are more of
// kubectl's, such as "--dry-run=server". It gives what kubectl printed.
func (c *ControlPlane) Apply(t stage.T, yaml string, flags ...string) string {
	t.Helper()
	return c.mustKubectl(t, yaml, append([]string{"apply", "--server-side", "-f", "-"}, flags...)...)
}

func (c *ControlPlane) mustKubectl(t stage.T, input string, args ...string) string {
	t.Helper()
	out, err := c.TryKubectl(t, input, args...)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return out
}

// TryKubectl runs kubectl as the administrator, with an input, and gives what it
// printed to standard output. The error carries what it printed to standard
// error.
func (c *ControlPlane) TryKubectl(t stage.T, input string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, program(t, "kubectl"), append([]string{"--kubeconfig", c.Kubeconfig}, args...)...)
	cmd.Env = append(os.Environ(), "HOME="+c.home) // its cache and habits
	var out, said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &said
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(said.String()))
	}
	return out.String(), nil
}
