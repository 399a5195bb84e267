package project

import "testing"

// TestArchitecture checks that every file, function and test that
// ARCHITECTURE.md shows as code exists.
func TestArchitecture(t *testing.T) {
	tr := readTree(t)
	terms := code.FindAllStringSubmatch(readPage(t, "ARCHITECTURE.md"), -1)
	if len(terms) < 200 {
		t.Fatalf("only %d terms found: the check sees nothing", len(terms))
	}
	for _, term := range terms {
		if why := tr.missing(term[1]); why != "" {
			t.Errorf("`%s`: %s", term[1], why)
		}
	}
}

func TestMissingFires(t *testing.T) {
	tr := readTree(t)
	for _, wrong := range []string{"cache.Aply", "nowhere.Apply", "agent/cash/apply.go", "aply.go", "TestNothingAtAll", "cache.Cache.Sing"} {
		if tr.missing(wrong) == "" {
			t.Errorf("%s passed", wrong)
		}
	}
	for _, right := range []string{"cache.Apply", "cache.Cache.Apply", "agent/cache/apply.go", "TestLinks/icp-agent", "GET /healthz", "store.Store"} {
		if why := tr.missing(right); why != "" {
			t.Errorf("%s: %s", right, why)
		}
	}
}
