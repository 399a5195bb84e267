// Package conform holds `icp dev` against the SPIFFE specifications, with the
// judge that anybody can run against any endpoint.
package conform

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"testing"

	"github.com/authsec-ai/icp/e2e/devtest"
	"github.com/authsec-ai/icp/e2e/stage"
)

// stranger is a user without an entry.
const stranger = "4242"

// TestConform runs every row. The judge runs as this user, who has two
// identities; its commands change one and then take both away.
func TestConform(t *testing.T) {
	d := devtest.Start(t)
	d.Entry(t, "/second", 0, "")
	icp := stage.Program(t, "icp") + " --dir " + d.Dir
	rotate := fmt.Sprintf("%s entry update %s --dns-name n$(date +%%s%%N).example", icp, d.ID("/second"))
	revoke := fmt.Sprintf("%s entry delete %s %s", icp, d.ID("/dev"), d.ID("/second"))
	cmd := exec.Command(stage.Program(t, "spiffe-conform"), "--socket", d.AgentSocket, "--output", "json", "--timeout", devtest.Patience.String(),
		"--other-uid", stranger, "--on-rotate", rotate, "--on-revoke", revoke)
	out, err := cmd.Output()
	var printed struct {
		Rows []struct{ ID, Outcome, Seen string }
	}
	if jsonErr := json.Unmarshal(out, &printed); jsonErr != nil {
		t.Fatalf("the judge ended with %v and printed no JSON (%v): %s", err, jsonErr, out)
	}
	if len(printed.Rows) < 50 {
		t.Errorf("only %d rows were run", len(printed.Rows))
	}
	for _, row := range printed.Rows {
		t.Run(row.ID, func(t *testing.T) {
			if row.Outcome != "passed" {
				t.Errorf("%s: %s", row.Outcome, row.Seen)
			}
			t.Log(row.Seen)
		})
	}
	if err != nil {
		t.Errorf("the judge ended with %v", err)
	}
}

// TestSelfTest asks the built program to show that it can be trusted.
func TestSelfTest(t *testing.T) {
	t.Logf("%s", stage.Output(t, exec.Command(stage.Program(t, "spiffe-conform"), "--selftest")))
}
