package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"

	"github.com/authsec-ai/icp/cmd/spiffe-conform/internal/builtin"
	"github.com/authsec-ai/icp/cmd/spiffe-conform/internal/control"
)

// TestMain is also the second run of this program, as a stranger.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == control.StrangerFlag {
		os.Exit(control.RunStranger(os.Args[2:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

func serve(t *testing.T, b builtin.Behaviour) string {
	t.Helper()
	server, err := builtin.Start(filepath.Join(t.TempDir(), "s"), b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	return server.Address().String()
}

// try gives the exit status and what was printed.
func try(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	code = run(t.Context(), args, &out, &err)
	return code, out.String(), err.String()
}

func TestExitStatus(t *testing.T) {
	good := serve(t, builtin.Behaviour{})
	bad := serve(t, builtin.Behaviour{X509: func(_ int, m *workload.X509SVIDResponse) { m.Svids[0].Bundle = nil }})
	nobody := "unix://" + filepath.Join(t.TempDir(), "nobody")
	for name, c := range map[string]struct {
		args []string
		want int
		says string
	}{
		"good":             {[]string{"--socket", good}, statusGood, "50 passed, 0 failed, 4 need control, 0 not seen"},
		"one row":          {[]string{"--socket", good, "--rows", "WLEP-05"}, statusGood, "1 passed"},
		"a row failed":     {[]string{"--socket", bad}, statusFailed, "SVID 0 has no bundle"},
		"another row":      {[]string{"--socket", bad, "--rows", "WLEP-05"}, statusGood, "1 passed"},
		"no socket":        {[]string{"--socket", nobody}, statusUnreachable, "nobody serves there"},
		"no address":       {[]string{"--socket", "nowhere"}, statusUsage, "unix:///path"},
		"no such flag":     {[]string{"--nosuch"}, statusUsage, "--help"},
		"no such row":      {[]string{"--rows", "WLEP-99"}, statusUsage, "--list"},
		"no such format":   {[]string{"--socket", good, "--output", "xml"}, statusUsage, "table or json"},
		"a word more":      {[]string{"--socket", good, "more"}, statusUsage, "more"},
		"no time":          {[]string{"--socket", good, "--timeout", "0s"}, statusUsage, "--timeout"},
		"the user himself": {[]string{"--socket", good, "--other-uid", strconv.Itoa(os.Getuid())}, statusUsage, "--other-uid"},
		"list":             {[]string{"--list", "--rows", "X509-01"}, statusGood, "X509-01  must  an SVID has exactly one URI name"},
		"help":             {[]string{"--help"}, statusGood, "spiffe-conform --socket"},
		"a command fails": {[]string{"--socket", good, "--rows", "WLAPI-17", "--on-revoke", "echo cannot; exit 7"}, statusFailed,
			"exit status 7: cannot"},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := try(t, c.args...)
			if code != c.want || !strings.Contains(stdout+stderr, c.says) {
				t.Errorf("exit status %d, want %d with %q; it printed:\n%s%s", code, c.want, c.says, stdout, stderr)
			}
		})
	}
}

func TestJSON(t *testing.T) {
	address := serve(t, builtin.Behaviour{})
	code, stdout, stderr := try(t, "--socket", address, "--output", "json", "--rows", "WLEP-05,WLAPI-17")
	if code != statusGood {
		t.Fatalf("exit status %d: %s", code, stderr)
	}
	var document struct {
		Socket                string
		Passed, Failed        int
		NeedsControl, NotSeen int
		Rows                  []struct{ ID, Level, Wants, Outcome, Seen string }
	}
	if err := json.Unmarshal([]byte(stdout), &document); err != nil {
		t.Fatal(err)
	}
	if len(document.Rows) != 2 || document.Socket != address || document.Passed != 1 {
		t.Fatalf("it printed %s", stdout)
	}
	if first, last := document.Rows[0], document.Rows[1]; first.Outcome != "passed" || last.Outcome != "needs control" || last.Level != "should" {
		t.Errorf("it printed %s", stdout)
	}
}
