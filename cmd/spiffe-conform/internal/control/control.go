// Package control acts for the rows that need more than a look: it runs the
// user's commands, and calls the endpoint as another user.
package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/authsec-ai/icp/cmd/spiffe-conform/internal/conform"
	"github.com/authsec-ai/icp/cmd/spiffe-conform/internal/socket"
)

// Command gives a function that has sh run a command, or nil for none.
func Command(line string) func(context.Context) error {
	if line == "" {
		return nil
	}
	return func(ctx context.Context) error {
		cmd := exec.CommandContext(ctx, "/bin/sh", "-c", line)
		cmd.WaitDelay = time.Second // what the shell left behind may hold the output open
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%q: %w: %s", line, err, bytes.TrimSpace(out))
		}
		return nil
	}
}

// Stranger is the user id as which this program runs itself once more.
type Stranger int

// StrangerFlag is the first argument of that second run; the address and the
// timeout follow.
const StrangerFlag = "--as-stranger"

// Ask gives a function that makes every request as the stranger. The user's own
// id makes a stranger by its process alone.
func (s Stranger) Ask(address socket.Address, timeout time.Duration) func(context.Context) (conform.Stranger, error) {
	return func(ctx context.Context) (conform.Stranger, error) {
		// The program may lie where the stranger can't walk; this link needs no walk.
		cmd := exec.CommandContext(ctx, "/proc/self/exe", StrangerFlag, address.String(), timeout.String())
		if int(s) != os.Getuid() {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(s), Gid: uint32(s)}}
		}
		cmd.Dir = "/"
		var seen conform.Stranger
		out, err := cmd.Output()
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return seen, fmt.Errorf("as user %d: %w: %s", s, err, bytes.TrimSpace(exit.Stderr))
		}
		if err != nil {
			return seen, fmt.Errorf("run as user %d: %w", s, err)
		}
		if err := json.Unmarshal(out, &seen); err != nil {
			return seen, fmt.Errorf("read what user %d saw: %w", s, err)
		}
		return seen, nil
	}
}

// RunStranger is the second run. It prints what it saw and gives the exit status.
func RunStranger(args []string, stdout, stderr io.Writer) int {
	seen, err := runStranger(args)
	if err == nil {
		err = json.NewEncoder(stdout).Encode(seen)
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	return 0
}

func runStranger(args []string) (conform.Stranger, error) {
	if len(args) != 2 {
		return conform.Stranger{}, fmt.Errorf("%s is for this program's own use", StrangerFlag)
	}
	address, err := socket.ParseAddress(args[0])
	if err != nil {
		return conform.Stranger{}, err
	}
	timeout, err := time.ParseDuration(args[1])
	if err != nil {
		return conform.Stranger{}, err
	}
	conn, err := address.Dial(context.Background())
	if err != nil {
		return conform.Stranger{}, err // no socket is no refusal
	}
	defer conn.Close()
	return conform.BeStranger(context.Background(), address, timeout)
}
