package disk

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func opened(t *testing.T) (*Custody, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "keys")
	c, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return c, dir
}

func created(t *testing.T, c *Custody, tenant string) {
	t.Helper()
	if err := c.Create(t.Context(), tenant); err != nil {
		t.Fatal(err)
	}
}

func TestWrapUnwrap(t *testing.T) {
	c, dir := opened(t)
	created(t, c, "acme")
	created(t, c, "other")
	plain, aad := []byte("a signing key"), []byte("what it is for")
	wrapped, err := c.Wrap(t.Context(), "acme", plain, aad)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(wrapped, plain) {
		t.Fatal("the plaintext shows in what was wrapped")
	}

	t.Run("twin", func(t *testing.T) {
		again, err := Open(dir) // as after a restart
		if err != nil {
			t.Fatal(err)
		}
		got, err := again.Unwrap(t.Context(), "acme", wrapped, aad)
		if err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("Unwrap = %q, %v", got, err)
		}
	})
	refused := map[string]struct {
		tenant       string
		wrapped, aad []byte
	}{
		"other tenant":   {"other", wrapped, aad},
		"other use":      {"acme", wrapped, []byte("something else")},
		"no use":         {"acme", wrapped, nil},
		"changed":        {"acme", append(bytes.Clone(wrapped[:len(wrapped)-1]), wrapped[len(wrapped)-1]^1), aad},
		"cut":            {"acme", wrapped[:len(wrapped)-1], aad},
		"only a head":    {"acme", wrapped[:1], aad},
		"empty":          {"acme", nil, aad},
		"unknown format": {"acme", append([]byte{9}, wrapped[1:]...), aad},
		"unknown tenant": {"nobody", wrapped, aad},
	}
	for name, r := range refused {
		t.Run(name, func(t *testing.T) {
			if got, err := c.Unwrap(t.Context(), r.tenant, r.wrapped, r.aad); err == nil {
				t.Fatalf("Unwrap gave %q", got)
			}
		})
	}
}

func TestEachWrapDiffers(t *testing.T) {
	c, _ := opened(t)
	created(t, c, "acme")
	a, errA := c.Wrap(t.Context(), "acme", []byte("x"), nil)
	b, errB := c.Wrap(t.Context(), "acme", []byte("x"), nil)
	if errA != nil || errB != nil || bytes.Equal(a, b) {
		t.Fatalf("two wraps: %x (%v) and %x (%v)", a, errA, b, errB)
	}
}

func TestCreateKeepsTheKey(t *testing.T) {
	c, dir := opened(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := c.Create(t.Context(), "acme"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	wrapped, err := c.Wrap(t.Context(), "acme", []byte("x"), nil)
	if err != nil {
		t.Fatal(err)
	}
	created(t, c, "acme")
	if _, err := c.Unwrap(t.Context(), "acme", wrapped, nil); err != nil {
		t.Fatalf("a second Create replaced the key: %v", err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Fatalf("folder holds %v, %v; want the one key", files, err)
	}
}

func TestDestroy(t *testing.T) {
	c, dir := opened(t)
	created(t, c, "acme")
	wrapped, err := c.Wrap(t.Context(), "acme", []byte("x"), nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // an absent key is no error
		if err := c.Destroy(t.Context(), "acme"); err != nil {
			t.Fatal(err)
		}
	}
	if files, _ := os.ReadDir(dir); len(files) != 0 {
		t.Fatalf("folder still holds %v", files)
	}
	created(t, c, "acme") // the same tenant again: another key
	if _, err := c.Unwrap(t.Context(), "acme", wrapped, nil); err == nil {
		t.Fatal("what the destroyed key wrapped can be unwrapped")
	}
}

func TestModes(t *testing.T) {
	c, dir := opened(t)
	created(t, c, "acme")
	file := filepath.Join(dir, "acme.kek")
	for path, mode := range map[string]os.FileMode{dir: 0o700, file: 0o600} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != mode {
			t.Fatalf("%s has mode %v, %v; want %v", path, info.Mode(), err, mode)
		}
	}
	use := func() error { _, err := c.Wrap(t.Context(), "acme", []byte("x"), nil); return err }
	refusedFor := func(t *testing.T, err error, reason string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), reason) {
			t.Fatalf("error is %v; want one with %q", err, reason)
		}
	}
	set := func(t *testing.T, path string, mode os.FileMode) {
		t.Helper()
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}

	t.Run("file others can read", func(t *testing.T) {
		set(t, file, 0o640)
		refusedFor(t, use(), "chmod 600")
		refusedFor(t, c.Create(t.Context(), "acme"), "chmod 600")
		set(t, file, 0o600)
		if err := use(); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("folder others can list", func(t *testing.T) {
		set(t, dir, 0o750)
		_, err := Open(dir)
		refusedFor(t, err, "chmod 700")
		set(t, dir, 0o700)
		if _, err := Open(dir); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("folder is a link", func(t *testing.T) {
		link := filepath.Join(t.TempDir(), "link")
		if err := os.Symlink(dir, link); err != nil {
			t.Fatal(err)
		}
		_, err := Open(link)
		refusedFor(t, err, "not a folder")
	})
	t.Run("file is a link", func(t *testing.T) {
		if err := os.Symlink(file, filepath.Join(dir, "linked.kek")); err != nil {
			t.Fatal(err)
		}
		_, err := c.Wrap(t.Context(), "linked", []byte("x"), nil)
		refusedFor(t, err, "symbolic link")
		refusedFor(t, c.Destroy(t.Context(), "linked"), "symbolic link")
		if err := use(); err != nil {
			t.Fatalf("the file behind the link was touched: %v", err)
		}
	})
	t.Run("wrong length", func(t *testing.T) {
		for name, data := range map[string][]byte{"short": make([]byte, 31), "long": make([]byte, 33), "none": nil, "zero": make([]byte, 32)} {
			if err := os.WriteFile(filepath.Join(dir, name+".kek"), data, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Wrap(t.Context(), name, []byte("x"), nil); err == nil {
				t.Errorf("a %s key is used", name)
			}
		}
	})
}

func TestTenantNames(t *testing.T) {
	c, _ := opened(t)
	for _, name := range []string{"", ".", "..", ".hidden", "../up", "a/b", "A", "a b", "a\x00b", "ä", strings.Repeat("a", maxName+1)} {
		if err := c.Create(t.Context(), name); err == nil {
			t.Errorf("Create(%q) succeeded", name)
		}
	}
	for _, name := range []string{"a", "dev.icp.internal", "0b9f1c1e-6a33-4a2f-9c57-0a4a4d3f6d11", "a_b", strings.Repeat("a", maxName)} {
		if err := c.Create(t.Context(), name); err != nil {
			t.Errorf("Create(%q): %v", name, err)
		}
	}
}
