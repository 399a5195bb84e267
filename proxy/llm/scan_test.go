package llm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
)

// FuzzScan holds the scanner against encoding/json: whatever passes is JSON to
// it too, and it finds the same model there.
func FuzzScan(f *testing.F) {
	for _, seed := range []string{
		`{"model":"a"}`, `{"\u006dodel":"a\u002db","x":[1,-2e3,{"y":null}]}`, `{"model":"a","model":"b"}`, `{}`, `{"a":"\ud83d\ude00"}`,
		`{"MODEL":"a"}`, "\ufeff{}", `{"a":1,}`, `{"a":01}`, `{"a":1e}`, `{"a":"` + "\x1f" + `"}`, `{"a":tru}`, `{"a":[}`, `{"a":"\ud800"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		found, refused := scan(raw)
		if refused != nil {
			return
		}
		var whole map[string]any
		dec := json.NewDecoder(bytes.NewReader(raw))
		if err := dec.Decode(&whole); err != nil {
			t.Fatalf("encoding/json refuses what passed: %v", err)
		}
		if _, err := dec.Token(); err != io.EOF {
			t.Fatalf("something follows: %v", err)
		}
		var lax struct{ Model string }
		if err := json.Unmarshal(raw, &lax); err != nil || lax.Model != found.Model {
			t.Fatalf("found %q, encoding/json %q, %v", found.Model, lax.Model, err)
		}
	})
}

// The scanner passes what encoding/json writes.
func TestScanAcceptsJSON(t *testing.T) {
	for _, v := range []any{
		map[string]any{"model": "m", "text": "line\n\ttab \"quoted\" \\ \u2028 \x7f é 😀", "n": []any{0, -1.5e-9, 1e300, true, false, nil}},
		map[string]any{"model": "m", "deep": map[string]any{"a": []any{map[string]any{}, []any{}}}},
		map[string]any{},
	} {
		raw, err := json.MarshalIndent(v, "", "\t")
		if err != nil {
			t.Fatal(err)
		}
		if _, refused := scan(raw); refused != nil {
			t.Errorf("%s: %v", raw, refused)
		}
	}
}

// Every position of a special byte within eight is seen by the fast path.
func TestPlain(t *testing.T) {
	for _, special := range []byte{'"', '\\', 0, 1, 0x1f, '\n'} {
		for length := range 40 {
			for at := range length {
				text := []byte(strings.Repeat("é!#[]~ ", 8)[:length])
				text[at] = special
				if got := plain(text); got != at {
					t.Fatalf("%q: %d, want %d", text, got, at)
				}
			}
		}
	}
	if got := plain([]byte("\x20\x21\x23\x5b\x5d\x7f\x80\xff")); got != 8 {
		t.Errorf("stopped at %d", got)
	}
}

func body64K() []byte {
	var b strings.Builder
	b.WriteString(`{"messages":[`)
	for i := 0; b.Len() < 64<<10; i++ {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"role":"user","content":"Turn %d: what does the report say about \"growth\"?\n%s"}`, i, strings.Repeat("Some words of a longer text. ", 12))
	}
	b.WriteString(`],"model":"customer-service-llm","temperature":0.2}`)
	return []byte(b.String())
}

func BenchmarkLLMScan64K(b *testing.B) {
	raw := body64K()
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if found, err := scan(raw); err != nil || found.Model == "" {
			b.Fatal(err)
		}
	}
}
