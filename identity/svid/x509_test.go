package svid_test

import (
	"testing"
	"time"

	"github.com/authsec-ai/icp/identity/svid"
	"github.com/authsec-ai/icp/internal/corpus"
)

func newWorld(t testing.TB) *corpus.World {
	t.Helper()
	world, err := corpus.New(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return world
}

func x509Cases(t testing.TB) []corpus.Case {
	t.Helper()
	world := newWorld(t)
	cases := world.X509()
	if err := world.Err(); err != nil {
		t.Fatal(err)
	}
	return cases
}

// TestX509Rows sends every chain of the corpus through the validator: the bad
// one is refused for its own reason, its twin accepted as who it is.
func TestX509Rows(t *testing.T) {
	for _, c := range x509Cases(t) {
		if c.Twin == nil {
			t.Run(c.Row+"/accepted/"+c.Name, func(t *testing.T) { mustAccept(t, c) })
			continue
		}
		t.Run(c.Row+"/refused/"+c.Name, func(t *testing.T) {
			got, err := svid.VerifyX509(c.Chain, c.Bundles, c.Options)
			if got != nil || svid.ReasonOf(err) != c.Want {
				t.Errorf("got %+v, error %v; want reason %q", got, err, c.Want)
			}
		})
		t.Run(c.Row+"/twin/"+c.Name, func(t *testing.T) { mustAccept(t, *c.Twin) })
	}
}

func mustAccept(t *testing.T, c corpus.Case) {
	t.Helper()
	got, err := svid.VerifyX509(c.Chain, c.Bundles, c.Options)
	if err != nil {
		t.Fatal(err)
	}
	if got.ID != c.ID {
		t.Errorf("got ID %s, want %s", got.ID, c.ID)
	}
}
