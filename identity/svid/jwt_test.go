package svid_test

import (
	"testing"

	"github.com/authsec-ai/icp/identity/svid"
	"github.com/authsec-ai/icp/internal/corpus"
)

func tokenCases(t testing.TB) []corpus.TokenCase {
	t.Helper()
	world := newWorld(t)
	cases := world.JWT()
	if err := world.Err(); err != nil {
		t.Fatal(err)
	}
	return cases
}

// TestJWTRows sends every token of the corpus through the validator: the bad
// one is refused for its own reason, its twin accepted as who it is.
func TestJWTRows(t *testing.T) {
	for _, c := range tokenCases(t) {
		if c.Twin == nil {
			t.Run(c.Row+"/accepted/"+c.Name, func(t *testing.T) { mustAcceptToken(t, c) })
			continue
		}
		t.Run(c.Row+"/refused/"+c.Name, func(t *testing.T) {
			got, err := svid.VerifyJWT(c.Token, c.Audience, c.Bundles, c.Options)
			if got != nil || svid.ReasonOf(err) != c.Want {
				t.Errorf("got %+v, error %v; want reason %q", got, err, c.Want)
			}
		})
		t.Run(c.Row+"/twin/"+c.Name, func(t *testing.T) { mustAcceptToken(t, *c.Twin) })
	}
}

func mustAcceptToken(t *testing.T, c corpus.TokenCase) {
	t.Helper()
	got, err := svid.VerifyJWT(c.Token, c.Audience, c.Bundles, c.Options)
	if err != nil {
		t.Fatal(err)
	}
	if got.ID != c.ID {
		t.Errorf("got ID %s, want %s", got.ID, c.ID)
	}
}
