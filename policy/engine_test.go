package policy_test

import (
	"sync"
	"testing"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/policy"
)

func set(epoch string, revision int64, policies ...policy.Policy) policy.Set {
	return policy.Set{Epoch: epoch, Revision: revision, Policies: policies}
}

var caller = get("spiffe://td/a")

func TestEngineKeepsWhatWorks(t *testing.T) {
	good, other := allow("good", "spiffe://td/a"), allow("other", "spiffe://td/b")
	broken := other
	broken.Effect = "permit"
	for _, c := range []struct {
		row  string
		bad  policy.Set
		code identity.Code
		twin policy.Set
	}{
		{"P-64/invalid rule", set("e", 6, other, broken), identity.Invalid, set("e", 6, other)},
		{"P-64/no policies field", policy.Set{Epoch: "e", Revision: 6}, identity.Invalid, policy.Set{Epoch: "e", Revision: 6, Policies: []policy.Policy{}}},
		{"P-66/older revision", set("e", 4, other), identity.Conflict, set("e", 5, other)},
		{"newer engine", policy.Set{Epoch: "e", Revision: 6, MinEngine: policy.EngineVersion + 1, Policies: []policy.Policy{other}}, identity.Unsupported,
			policy.Set{Epoch: "e", Revision: 6, MinEngine: policy.EngineVersion, Policies: []policy.Policy{other}}},
	} {
		engine := policy.NewEngine()
		if err := engine.Load(set("e", 5, good)); err != nil {
			t.Fatal(err)
		}
		generation := engine.Generation()
		t.Run(c.row+"/refused", func(t *testing.T) {
			if err := engine.Load(c.bad); identity.CodeOf(err) != c.code {
				t.Errorf("got %v, want %s", err, c.code)
			}
			if d := engine.Decide(caller); !d.Allowed || d.Policy != "good" {
				t.Errorf("the old set is gone: %+v", d)
			}
			if epoch, revision := engine.Revision(); epoch != "e" || revision != 5 || engine.Generation() != generation {
				t.Errorf("now at %s/%d, generation %d", epoch, revision, engine.Generation())
			}
		})
		t.Run(c.row+"/twin", func(t *testing.T) {
			if err := engine.Load(c.twin); err != nil {
				t.Fatal(err)
			}
			if d := engine.Decide(caller); d.Allowed {
				t.Errorf("the old set is still there: %+v", d)
			}
			if engine.Generation() == generation {
				t.Error("the generation did not change")
			}
		})
	}
}

func TestEngineAcceptsAnotherEpoch(t *testing.T) {
	engine := policy.NewEngine()
	for _, s := range []policy.Set{set("e", 5, allow("p", "spiffe://td/a")), set("restored", 1, allow("q", "spiffe://td/a"))} {
		if err := engine.Load(s); err != nil {
			t.Fatal(err)
		}
	}
	if d := engine.Decide(caller); d.Policy != "q" {
		t.Errorf("got %+v", d)
	}
}

func TestEngineDeniesWithoutASet(t *testing.T) {
	t.Run("P-64/first start", func(t *testing.T) {
		engine := policy.NewEngine()
		if d := engine.Decide(caller); d.Allowed || d.Reason != policy.ReasonNoSet {
			t.Errorf("got %+v", d)
		}
		bad := allow("p", "spiffe://td/a")
		bad.Paths = nil
		if engine.Load(set("e", 1, bad)) == nil {
			t.Error("a bad set was loaded")
		}
		if d := engine.Decide(caller); d.Allowed || d.Reason != policy.ReasonNoSet {
			t.Errorf("after a bad set: %+v", d)
		}
	})
	t.Run("P-65/expired", func(t *testing.T) {
		engine := policy.NewEngine()
		good := allow("p", "spiffe://td/a")
		good.Models = []string{"m"}
		if err := engine.Load(set("e", 5, good)); err != nil {
			t.Fatal(err)
		}
		req := caller
		req.Model = "m"
		if !engine.Decide(req).Allowed || !engine.AllowsModel(req) {
			t.Fatal("the twin is denied")
		}
		generation := engine.Generation()
		engine.Expire()
		if d := engine.Decide(req); d.Allowed || d.Reason != policy.ReasonExpired || engine.AllowsModel(req) {
			t.Errorf("got %+v", d)
		}
		if engine.Generation() == generation {
			t.Error("the generation did not change")
		}
		if err := engine.Load(set("e", 4, good)); identity.CodeOf(err) != identity.Conflict {
			t.Errorf("an older set after expiry: %v", err)
		}
		if err := engine.Load(set("e", 5, good)); err != nil || !engine.Decide(req).Allowed {
			t.Errorf("the same set again: %v, %+v", err, engine.Decide(req))
		}
	})
}

func TestEngineConcurrently(t *testing.T) {
	engine := policy.NewEngine()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 1000 {
				if d := engine.Decide(caller); d.Allowed && d.Policy != "p" {
					t.Errorf("got %+v", d)
				}
				engine.Generation()
			}
		})
	}
	for i := range int64(200) {
		if err := engine.Load(set("e", i, allow("p", "spiffe://td/a"))); err != nil {
			t.Error(err)
		}
		engine.Expire()
	}
	wg.Wait()
}
