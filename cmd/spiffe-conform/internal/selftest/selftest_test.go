package selftest

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/authsec-ai/icp/cmd/spiffe-conform/internal/builtin"
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

// TestEveryHostileToken has a server accept everything: the row must name every
// token that it showed.
func TestEveryHostileToken(t *testing.T) {
	all := regexp.MustCompile(`of (\d+) hostile tokens it accepts (\d+):`)
	results := rows(t, builtin.Behaviour{Validate: func(*workload.ValidateJWTSVIDRequest, *workload.ValidateJWTSVIDResponse, error) error { return nil }}, "WLAPI-25")
	found := all.FindStringSubmatch(results[0].Seen)
	if len(found) != 3 || found[1] != found[2] {
		t.Errorf("it says %.80q; want all of them accepted", results[0].Seen)
	}
}

// TestProfileOff switches a profile off, which an operator may: its rows are
// then not seen, and no row fails.
func TestProfileOff(t *testing.T) {
	for off, family := range map[string]string{"X509": "X509-", "JWT": "JWT-"} {
		t.Run(off, func(t *testing.T) {
			results := rows(t, builtin.Behaviour{Refuse: func(method string, _ any) error {
				if strings.Contains(method, off) {
					return status.Error(codes.Unimplemented, "switched off")
				}
				return nil
			}})
			for _, r := range results {
				if r.Outcome == conform.Failed {
					t.Errorf("%s: %s", r.ID, r.Seen)
				}
				if strings.HasPrefix(r.ID, family) != (r.Outcome == conform.NotSeen) && !strings.HasPrefix(r.ID, "WLAPI-") && !strings.HasPrefix(r.ID, "TDB-") {
					t.Errorf("%s: %s: %s", r.ID, r.Outcome, r.Seen)
				}
			}
		})
	}
}

// TestWithoutControl gives the run no commands and no other caller.
func TestWithoutControl(t *testing.T) {
	server, err := builtin.Start(filepath.Join(t.TempDir(), "s"), builtin.Behaviour{})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	results, err := conform.Run(t.Context(), conform.Rows(), conform.Settings{Address: server.Address(), Timeout: patience, AtOnce: patience, Streams: 10})
	if err != nil {
		t.Fatal(err)
	}
	needs := map[string]string{"WLEP-15": "--other-uid", "WLAPI-03": "--on-rotate", "WLAPI-17": "--on-revoke", "WLAPI-27": "--on-rotate"}
	for _, r := range results {
		want := conform.Passed
		if needs[r.ID] != "" {
			want = conform.NeedsControl
		}
		if r.Outcome != want || !strings.Contains(r.Seen, needs[r.ID]) {
			t.Errorf("%s: %s: %s", r.ID, r.Outcome, r.Seen)
		}
	}
}

func rows(t *testing.T, b builtin.Behaviour, names ...string) []conform.Result {
	t.Helper()
	chosen, err := conform.Select(names)
	if err != nil {
		t.Fatal(err)
	}
	results, err := against(t.Context(), b, chosen, stranger(), patience)
	if err != nil {
		t.Fatal(err)
	}
	return results
}
