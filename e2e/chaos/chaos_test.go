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
func TestThreeKills(t *testing.T) { runShort(t, Options{Kills: 3}) }

// TestFaults is `make chaos FLAGS="-faults -postgres"`, short: each link has a fault in
// the last run, which ends without a kill.
func TestFaults(t *testing.T) { runShort(t, Options{Apart: true, Postgres: true, Faults: true}) }

func runShort(t *testing.T, o Options) {
	var log bytes.Buffer
	o.Bin, o.Dir, o.Seed = filepath.Dir(stage.Program(t, "icp")), stage.Folder(t), uint64(time.Now().UnixNano())
	o.Bound, o.Limit, o.Log = 5*time.Second, 5*time.Minute, &log
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
