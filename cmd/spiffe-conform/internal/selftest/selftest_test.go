package selftest

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/authsec-ai/icp/cmd/spiffe-conform/internal/conform"
	"github.com/authsec-ai/icp/cmd/spiffe-conform/internal/control"
)

// TestMain is also the second run of this program, that the rows with a
// stranger start.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == control.StrangerFlag {
		os.Exit(control.RunStranger(os.Args[2:], os.Stdout, os.Stderr))
	}
	goleak.VerifyTestMain(m)
}

func stranger() control.Stranger { return control.Stranger(os.Getuid()) }

// TestGood runs every row against the server that keeps to the rules.
func TestGood(t *testing.T) {
	results, err := Good(t.Context(), stranger())
	if err != nil {
		t.Fatal(err)
	}
	if len(results) < 50 {
		t.Errorf("only %d rows were run", len(results))
	}
	for _, r := range results {
		if r.Outcome != conform.Passed {
			t.Errorf("%s: %s: %s", r.ID, r.Outcome, r.Seen)
		}
	}
}

// TestBroken runs each row against every server that breaks it.
func TestBroken(t *testing.T) {
	broken := map[string]bool{}
	for _, way := range breakages() {
		broken[way.Row] = true
		t.Run(way.Row+"/"+way.Name, func(t *testing.T) {
			if err := Broken(t.Context(), way, stranger()); err != nil {
				t.Error(err)
			}
		})
	}
	for _, row := range conform.Rows() {
		if !broken[row.ID] {
			t.Errorf("nothing breaks %s", row.ID)
		}
	}
}

// TestMissIsSeen has the self-test look for a fault that is not there, and for
// one that shows itself otherwise.
func TestMissIsSeen(t *testing.T) {
	for name, way := range map[string]Breakage{
		"a good server":  {Row: "X509-01", Name: "nothing"},
		"another reason": {Row: "X509-01", Name: "two SPIFFE IDs", Says: "has 3 URI names", Behaviour: x509Breakages()[0].Behaviour},
	} {
		t.Run(name, func(t *testing.T) {
			if err := Broken(t.Context(), way, stranger()); err == nil {
				t.Error("it counts as caught")
			}
		})
	}
}
