package project

import (
	"path/filepath"
	"strings"
	"testing"
)

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

// TestCodemap checks that ARCHITECTURE.md names every package; those that only
// test or measure, by their folder.
func TestCodemap(t *testing.T) {
	page := readPage(t, "ARCHITECTURE.md")
	seen := map[string]bool{}
	walkGo(t, func(path string) {
		folder, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil || seen[folder] {
			return
		}
		seen[folder] = true
		named := folder
		if part, _, _ := strings.Cut(folder, "/"); part == "bench" || part == "e2e" { // each is one thing to a reader
			named = part
		}
		if !strings.Contains(page, "`"+named+"`") {
			t.Errorf("ARCHITECTURE.md does not name package %s", folder)
		}
	})
	if len(seen) < 50 {
		t.Fatalf("only %d packages found: the check sees nothing", len(seen))
	}
}
