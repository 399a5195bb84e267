package storetest

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/server/store"
)

// crashVariable tells the child process of Crash which database to write to.
const crashVariable = "ICP_TEST_CRASH"

// Crash kills a process amid its writes and looks at what it leaves: all that
// was acknowledged, nothing by halves. The calling test runs again, in a
// process of its own, as the writer. prepare gives the address of a new
// database and open opens it.
func Crash(t *testing.T, prepare func(tb testing.TB) string, open func(tb testing.TB, address string) store.Store) {
	if address := os.Getenv(crashVariable); address != "" {
		writeUntilKilled(t, open(t, address))
		return
	}
	const acknowledged = 50
	address := prepare(t)
	output, err := os.CreateTemp(t.TempDir(), "acknowledged")
	must(t, err)
	defer output.Close()
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), crashVariable+"="+address)
	cmd.Stdout = output
	writer := stage.Start(t, "writer", cmd)
	writer.WaitReady(t, time.Minute, func() error {
		if n := len(lines(t, output.Name())); n < acknowledged {
			return fmt.Errorf("%d writes acknowledged", n)
		}
		return nil
	})
	writer.Kill()

	s := open(t, address)
	names := lines(t, output.Name())
	for _, name := range names {
		get(s.Entry(t.Context(), "a", name))(t)
	}
	checkHistory(t, s, "a")
	entries, _, err := s.EntriesByParent(t.Context(), "a", agentID("a", "one").String())
	must(t, err)
	equal(t, "changes for the entries there are", cursor(t, s, "a").Revision, int64(1+len(entries)))
	t.Logf("%d acknowledged, %d written", len(names), len(entries))
	addEntry(t, s, "a", "after-the-crash")
}

// writeUntilKilled writes from many goroutines and prints what was acknowledged.
func writeUntilKilled(t *testing.T, s store.Store) {
	addTenant(t, s, "a")
	names := make(chan string)
	for range 8 {
		go func() {
			for name := range names {
				if _, err := s.CreateEntry(t.Context(), newEntry("a", name), event("entry.create")); err != nil {
					t.Error(err)
				}
				fmt.Printf("wrote %s\n", name)
			}
		}()
	}
	for i := range 1 << 20 {
		names <- fmt.Sprintf("e%d", i)
	}
}

// lines gives the names in complete lines of a file.
func lines(t *testing.T, path string) []string {
	t.Helper()
	raw, err := os.ReadFile(path)
	must(t, err)
	var names []string
	scan := bufio.NewScanner(strings.NewReader(string(raw[:strings.LastIndexByte(string(raw), '\n')+1])))
	for scan.Scan() {
		if name, ok := strings.CutPrefix(scan.Text(), "wrote "); ok {
			names = append(names, name)
		}
	}
	must(t, scan.Err())
	return names
}
