package identity_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/authsec-ai/icp/identity"
)

// One set in every spelling (SV-8).
func TestSelectorSpellings(t *testing.T) {
	want := identity.NewSelectors(
		identity.Selector{Type: "k8s", Value: "ns:prod"},
		identity.Selector{Type: "k8s", Value: "pod-label:app.kubernetes.io/name:web"},
		identity.Selector{Type: "unix", Value: "path:/opt/a=b:c"},
	)
	spellings := map[string]string{
		"colons": `["k8s:ns:prod", "k8s:pod-label:app.kubernetes.io/name:web", "unix:path:/opt/a=b:c"]`,
		"equals": `["k8s:ns=prod", "k8s:pod-label:app.kubernetes.io/name=web", "unix:path=/opt/a=b:c"]`,
		"pairs": `[{"type":"k8s","value":"ns:prod"},{"value":"pod-label:app.kubernetes.io/name=web","type":"k8s"},
			{"type":"unix","value":"path:/opt/a=b:c"}]`,
		"map":         ` {"k8s:ns":"prod","k8s:pod-label:app.kubernetes.io/name":"web","unix:path":"/opt/a=b:c"} `,
		"mixed":       `["k8s:ns:prod","k8s:ns=prod",{"type":"k8s","value":"pod-label=app.kubernetes.io/name:web"},"unix:path:/opt/a=b:c"]`,
		"other-order": `["unix:path:/opt/a=b:c","k8s:pod-label:app.kubernetes.io/name:web","k8s:ns:prod"]`,
	}
	for name, text := range spellings {
		t.Run(name, func(t *testing.T) {
			var got identity.Selectors
			if err := json.Unmarshal([]byte(text), &got); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
	t.Run("written", func(t *testing.T) {
		b, err := json.Marshal(want)
		if err != nil || string(b) != `["k8s:ns:prod","k8s:pod-label:app.kubernetes.io/name:web","unix:path:/opt/a=b:c"]` {
			t.Errorf("wrote %s, error %v", b, err)
		}
	})
}

func TestSelectorsRefused(t *testing.T) {
	for name, text := range map[string]string{
		"number": `7`, "text": `"unix:uid:1"`, "no-type": `["uid"]`, "no-key": `["unix"]`, "no-value": `["unix:uid"]`, "empty-value": `["unix:uid:"]`,
		"empty-key": `["unix::1"]`, "empty-type": `[":uid:1"]`, "empty": `[""]`, "null-item": `[null]`, "number-item": `[1]`, "list-item": `[["unix:uid:1"]]`,
		"upper-case-type": `["Unix:uid:1"]`, "space-in-type": `["un ix:uid:1"]`,
		"label-without-name": `["k8s:pod-label::web"]`, "label-without-value": `["k8s:pod-label:app"]`,
		"NUL": `["unix:uid:1\u0000"]`, "line-break": `["unix:user:a\nb"]`, "C1-control": `["unix:user:a\u0085b"]`, "lone-surrogate": `["unix:user:\ud800"]`,
		"too-long":                   `["unix:path:` + strings.Repeat("x", identity.MaxSelectorBytes) + `"]`,
		"map-key-twice":              `{"unix:uid":"1000","unix:uid":"0"}`,
		"map-key-twice-escaped":      `{"unix:uid":"1000","unix:\u0075id":"0"}`,
		"map-value-number":           `{"unix:uid":1000}`,
		"map-value-null":             `{"unix:uid":null}`,
		"map-value-empty":            `{"unix:uid":""}`,
		"map-value-object":           `{"unix:uid":{"a":"b"}}`,
		"pair-type-with-key":         `[{"type":"unix:uid","value":"1000"}]`,
		"pair-without-type":          `[{"value":"uid:1000"}]`,
		"pair-without-value":         `[{"type":"unix"}]`,
		"pair-with-more":             `[{"type":"unix","value":"uid:1000","op":"not"}]`,
		"pair-with-other-capitals":   `[{"Type":"unix","value":"uid:1000"}]`,
		"pair-with-type-twice":       `[{"type":"unix","type":"k8s","value":"uid:1000"}]`,
		"pair-with-value-as-number":  `[{"type":"unix","value":1000}]`,
		"pair-empty":                 `[{}]`,
		"pair-hides-key-in-its-type": `[{"type":"unix=uid","value":"1000:x"}]`,
	} {
		t.Run(name, func(t *testing.T) {
			var got identity.Selectors
			err := json.Unmarshal([]byte(text), &got)
			if identity.CodeOf(err) != identity.Invalid || len(got) != 0 {
				t.Errorf("%s: got %v, error %v", identity.Clip(text), got, err)
			}
		})
	}
}

// Bytes that are not UTF-8 reach the parser only as plain text, as JSON decoding
// has replaced them before.
func TestSelectorNotUTF8(t *testing.T) {
	for _, text := range []string{"unix:user:\xff", "unix:user:\xc0\xaf", "un\xffix:uid:1"} {
		if got, err := identity.ParseSelector(text); err == nil {
			t.Errorf("ParseSelector(%q) = %q", text, got)
		}
	}
	if _, err := identity.ParseSelector("unix:user:жук"); err != nil {
		t.Error(err)
	}
}

func TestSelectorsContain(t *testing.T) {
	sel := func(values ...string) identity.Selectors {
		var list []identity.Selector
		for _, v := range values {
			list = append(list, identity.Selector{Type: "unix", Value: v})
		}
		return identity.NewSelectors(list...)
	}
	has := sel("uid:1", "gid:2", "path:/a")
	for _, c := range []struct {
		want identity.Selectors
		is   bool
	}{
		{sel("uid:1"), true}, {sel("path:/a", "uid:1"), true}, {has, true},
		{sel("uid:2"), false}, {sel("uid:1", "gid:3"), false}, {sel("uid:1", "gid:2", "path:/a", "user:a"), false},
		{sel("uid:"), false}, {sel("UID:1"), false}, {sel(), false}, {nil, false},
	} {
		if got := has.Contains(c.want); got != c.is {
			t.Errorf("%v contains %v: %v", has, c.want, got)
		}
	}
	if identity.Selectors(nil).Contains(nil) {
		t.Error("nothing contains nothing: an entry without selectors would match")
	}
}

// FuzzSelectors: what is read is written so that it reads the same again, and
// has no character that a log or a comparison could stumble over.
func FuzzSelectors(f *testing.F) {
	for _, seed := range []string{
		`["unix:uid:1000"]`, `{"k8s:pod-label:app":"web"}`, `[{"type":"unix","value":"uid=1000"}]`, `["k8s:pod-label:a=b:c=d"]`,
		`{"unix:uid":"1","unix:uid":"0"}`, `[{"type":"unix:uid","value":"1"}]`, `null`, `["unix:path:/a\u0000b"]`, `["docker:env:A=B=C"]`, `[[`, `{"a`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var first, second identity.Selectors
		if json.Unmarshal(b, &first) != nil {
			return
		}
		text, err := json.Marshal(first)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, &second); err != nil || !slices.Equal(first, second) {
			t.Fatalf("%q: read %v, written %s, read again %v, error %v", b, first, text, second, err)
		}
		for _, s := range first {
			if s.Type == "" || strings.ContainsAny(s.String(), "\x00\r\n") || len(s.String()) > identity.MaxSelectorBytes {
				t.Fatalf("%q gives the selector %q", b, s)
			}
		}
	})
}

// A selector on its own reads and writes as text, in the canonical spelling.
func TestSelectorText(t *testing.T) {
	var s identity.Selector
	if err := json.Unmarshal([]byte(`"unix:uid=1000"`), &s); err != nil || s != (identity.Selector{Type: "unix", Value: "uid:1000"}) {
		t.Errorf("got %v, error %v", s, err)
	}
	before := s
	if err := json.Unmarshal([]byte(`"unix"`), &s); identity.CodeOf(err) != identity.Invalid || s != before {
		t.Errorf("got %v, error %v", s, err)
	}
}
