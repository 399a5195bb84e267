package source_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/authsec-ai/icp/policy"
	"github.com/authsec-ai/icp/policy/source"
)

func followFile(t *testing.T, path string) (*source.File, *gateway) {
	t.Helper()
	file, err := source.NewFile(source.FileConfig{Path: path, Every: 5 * time.Millisecond, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	gw := newGateway()
	run(t, file, gw)
	return file, gw
}

// write puts a set of one policy into the file, in place.
func write(t *testing.T, path string, revision int64, name string) {
	t.Helper()
	text, err := json.Marshal(policy.Set{Revision: revision, Policies: []policy.Policy{botPolicy(name)}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestFileIsReloaded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policies.json")
	write(t, path, 1, "first")
	file, gw := followFile(t, path)
	eventually(t, gw.decides, "first")

	write(t, path, 1, "other") // same size, and perhaps the same time
	eventually(t, gw.decides, "other")

	write(t, path+".new", 2, "renamed")
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	eventually(t, gw.decides, "renamed")
	if st := file.State(); !st.Loaded || st.Revision != 2 || st.Failures != 0 || st.Check(context.Background()) != nil {
		t.Errorf("state is %+v", st)
	}
}

func TestFileBehindASymbolicLink(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"one", "two"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, name, "policies.json"), 1, name)
	}
	link := filepath.Join(dir, "data")
	if err := os.Symlink("one", link); err != nil {
		t.Fatal(err)
	}
	_, gw := followFile(t, filepath.Join(link, "policies.json"))
	eventually(t, gw.decides, "one")
	if err := os.Symlink("two", link+".new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(link+".new", link); err != nil {
		t.Fatal(err)
	}
	eventually(t, gw.decides, "two")
}

func TestFileKeepsWhatWorks(t *testing.T) {
	for _, c := range []struct{ row, text, problem string }{
		{"P-64/invalid rule", `{"revision": 2, "policies": [{"name": "p", "effect": "permit"}]}`, `"permit" is neither`},
		{"P-64/empty set", "", "the document is empty"},
		{"P-64/cut off", `{"revision": 2, "policies": [`, "not valid JSON"},
		{"P-64/unknown key", "revision: 2\npolicy: []\n", `unknown field "policy"`},
		{"P-64/no policies", "revision: 2\n", "no policies field"},
		{"P-66/older", "revision: 0\npolicies: []\n", "older than revision 1"},
	} {
		t.Run(c.row, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "policies.yaml")
			write(t, path, 1, "good")
			file, gw := followFile(t, path)
			eventually(t, gw.decides, "good")
			if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			eventually(t, func() bool { return strings.Contains(file.State().Problem, c.problem) }, true)
			if got := gw.decides(); got != "good" {
				t.Errorf("the old set is gone: %s", got)
			}
			write(t, path, 2, "twin")
			eventually(t, gw.decides, "twin")
			if st := file.State(); st.Problem != "" || st.Failures == 0 {
				t.Errorf("state is %+v", st)
			}
		})
	}
	t.Run("P-64/removed", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "policies.yaml")
		write(t, path, 1, "good")
		file, gw := followFile(t, path)
		eventually(t, gw.decides, "good")
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() bool { return strings.Contains(file.State().Problem, "no such file") }, true)
		if got := gw.decides(); got != "good" {
			t.Errorf("the old set is gone: %s", got)
		}
		write(t, path, 1, "back")
		eventually(t, gw.decides, "back")
	})
}

func TestFileColdStart(t *testing.T) {
	t.Run("P-64/first start", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "policies.yaml")
		file, gw := followFile(t, path)
		eventually(t, func() bool { return file.State().Problem != "" }, true)
		if got := gw.decides(); got != policy.ReasonNoSet {
			t.Errorf("decides %s", got)
		}
		if err := file.State().Check(context.Background()); err == nil || !strings.Contains(err.Error(), "no such file") {
			t.Errorf("ready without policies: %v", err)
		}
		write(t, path, 1, "twin")
		eventually(t, gw.decides, "twin")
	})
	t.Run("explicitly empty", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "policies.yaml")
		if err := os.WriteFile(path, []byte("policies: []\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, gw := followFile(t, path)
		eventually(t, gw.decides, policy.ReasonDefault)
	})
}

func TestNewFileRefuses(t *testing.T) {
	for name, cfg := range map[string]source.FileConfig{
		"path": {Log: quiet()}, "log": {Path: "x"}, "interval": {Path: "x", Log: quiet(), Every: -1},
	} {
		if _, err := source.NewFile(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
