package credential

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

func TestGuard(t *testing.T) {
	const secret = "abcabd"
	for _, row := range []struct {
		in, out string
		echo    bool
	}{
		{"nothing of the kind", "nothing of the kind", false},
		{"almost abcab and abcabcab", "almost abcab and abcabcab", false},
		{"x" + secret + "y", "x", true},
		{"abcabcabd", "abc", true},
		{secret, "", true},
		{"ends with abcab", "ends with abcab", false},
		{"", "", false},
	} {
		for name, wrap := range map[string]func(io.Reader) io.Reader{
			"whole": func(r io.Reader) io.Reader { return r }, "bytes": iotest.OneByteReader, "halves": iotest.HalfReader, "data-with-EOF": iotest.DataErrReader,
		} {
			guard := NewGuard(io.NopCloser(wrap(strings.NewReader(row.in))), secret)
			got, err := io.ReadAll(guard)
			if string(got) != row.out || errors.Is(err, ErrEcho) != row.echo || (err != nil) != row.echo {
				t.Errorf("%q %s: %q, %v", row.in, name, got, err)
			}
		}
	}
}

// A piece that can't be part of the secret is passed on at once.
func TestGuardDoesNotWait(t *testing.T) {
	in, feed := io.Pipe()
	defer feed.Close()
	guard := NewGuard(in, "secret")
	go func() { _, _ = io.WriteString(feed, "data: 1\n\n") }()
	buf := make([]byte, 64)
	if n, err := guard.Read(buf); string(buf[:n]) != "data: 1\n\n" || err != nil {
		t.Errorf("%q %v", buf[:n], err)
	}
}

func TestFileFollowsChanges(t *testing.T) {
	now := time.Now()
	path := filepath.Join(t.TempDir(), "key")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first\n")
	f, err := Open(Config{Header: "authorization", Prefix: "Bearer ", File: path}, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	check := func(want string) {
		t.Helper()
		now = now.Add(2 * time.Second)
		if value, secret := f.Value(); value != "Bearer "+want || secret != want {
			t.Errorf("%q %q, want %q", value, secret, want)
		}
	}
	check("first")
	write("second one")
	check("second one")
	write("")
	check("second one")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	check("second one")
	write("third, again")
	check("third, again")
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	file := func(text string) string {
		path := filepath.Join(dir, "key")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, config := range []Config{
		{Header: "X", File: file("two\nlines")}, {Header: "X", File: filepath.Join(dir, "absent")}, {Header: "", File: "x"}, {Header: "X Y", File: "x"},
	} {
		if _, err := Open(config, time.Now); err == nil || strings.Contains(err.Error(), "lines") {
			t.Errorf("%+v: %v", config, err)
		}
	}
}
