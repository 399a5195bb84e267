package chaos

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/authsec-ai/icp/e2e/stage"
)

// TestMain is an observer when the harness under test starts one.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == ObserverCommand {
		if err := Observe(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "observer:", err)
			os.Exit(2)
		}
		return
	}
	m.Run()
}

// TestThreeKills is `make chaos`, short.
func TestThreeKills(t *testing.T) {
	var log bytes.Buffer
	o := Options{Bin: filepath.Dir(stage.Program(t, "icp")), Dir: stage.Folder(t), Seed: uint64(time.Now().UnixNano()), Kills: 3,
		Bound: 5 * time.Second, Limit: 5 * time.Minute, Log: &log}
	c, err := Run(t.Context(), o)
	if err != nil {
		t.Fatalf("seed %d: %v\n%s", o.Seed, err, log.String())
	}
	good, err := c.Report(&log)
	t.Logf("seed %d\n%s", o.Seed, log.String())
	if !good || err != nil {
		t.Errorf("an invariant is broken, or was not looked at (%v)", err)
	}
}
