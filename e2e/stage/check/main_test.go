package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/authsec-ai/icp/e2e/stage"
)

// TestInterrupt ends the check while a component starts: it ends at once, and
// what it has started goes.
func TestInterrupt(t *testing.T) {
	program, run := filepath.Join(stage.Folder(t), "check"), stage.RunID()+"_interrupted"
	stage.Output(t, exec.Command("go", "build", "-o", program, "."))
	cmd := exec.Command(program, "verifier PostgreSQL")
	cmd.Env = append(os.Environ(), "ICP_STAGE_RUN="+run)
	p := stage.Start(t, "check", cmd)
	left := func() string {
		found, err := stage.Left(run)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(found, "\n")
	}
	p.WaitReady(t, time.Minute, func() error {
		if !strings.Contains(left(), "postgres -D") {
			return errors.New("the component does not start")
		}
		return nil
	})
	if err := syscall.Kill(p.PID, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	stage.Eventually(t, 20*time.Second, func() error {
		if found := left(); found != "" {
			return errors.New(found)
		}
		return nil
	})
}
