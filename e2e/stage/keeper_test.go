package stage

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

// TestThings checks that the keeper forgets what it is told to, and that alone.
func TestThings(t *testing.T) {
	things := readThings(strings.NewReader("group 1\nfolder /a b\ngroup 12\ncgroup 1\n-group 1\n"))
	want := map[string][]string{"group": {"12"}, "folder": {"/a b"}, "cgroup": {"1"}}
	if !maps.EqualFunc(things, want, slices.Equal) {
		t.Errorf("there is %v, want %v", things, want)
	}
}
