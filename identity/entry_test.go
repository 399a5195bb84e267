package identity_test

import (
	"encoding/json"
	"math"
	"testing"
	"time"

	"github.com/authsec-ai/icp/identity"
)

func TestDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		`"1h"`: time.Hour, `"90s"`: 90 * time.Second, `"1h30m"`: 90 * time.Minute, `3600`: time.Hour, `0`: 0, `"0s"`: 0, `"250ms"`: 250 * time.Millisecond,
		`-5`: -5 * time.Second, `9223372036`: 9223372036 * time.Second, `"2562047h47m16.854775807s"`: math.MaxInt64,
	} {
		var got identity.Duration
		if err := json.Unmarshal([]byte(text), &got); err != nil || time.Duration(got) != want {
			t.Errorf("%s: got %s, error %v; want %s", text, time.Duration(got), err, want)
		}
		var again identity.Duration
		written, err := json.Marshal(got)
		if err != nil || json.Unmarshal(written, &again) != nil || again != got {
			t.Errorf("%s was written as %s, error %v, and read as %s", text, written, err, time.Duration(again))
		}
	}
	for _, text := range []string{`"1"`, `"1 h"`, `""`, `"forever"`, `1.5`, `1e9`, `true`, `[]`, `{}`, `9223372036854775807`, `-9223372036854775808`, `9223372037`, `-9223372037`, `"2562048h"`} {
		var got identity.Duration
		if err := json.Unmarshal([]byte(text), &got); identity.CodeOf(err) != identity.Invalid || got != 0 {
			t.Errorf("%s: got %s, error %v", text, time.Duration(got), err)
		}
	}
}

// An entry reads as it was written; the store and the sync stream rely on it.
func TestEntryJSON(t *testing.T) {
	const text = `{"id":"e1","tenant":"dev","revision":7,"created_at":"2026-01-02T03:04:05Z","spiffe_id":"spiffe://td/a",` +
		`"parent_id":"spiffe://td/agent/n","selectors":["unix:uid:1"],"ttl":"1h0m0s","renew_at":0.5,"dns_names":["a"]}`
	var e identity.Entry
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		t.Fatal(err)
	}
	if written, err := json.Marshal(e); err != nil || string(written) != text {
		t.Errorf("read\n%s, wrote\n%s, error %v", text, written, err)
	}
}

func TestAgentPath(t *testing.T) {
	for path, is := range map[string]bool{
		"/agent/n": true, "/agent/": false, "/agent": false, "/agent/a/b": false, "/Agent/n": false, "/x/agent/n": false, "": false,
	} {
		if identity.IsAgentPath(path) != is {
			t.Errorf("IsAgentPath(%q) is %v", path, !is)
		}
	}
	if !identity.IsAgentPath(identity.AgentPath("n")) {
		t.Error("AgentPath does not give an agent's path")
	}
}

// Oldest first, and by id at the same instant, so that the default identity is
// the same on every node and after every restart.
func TestEntryBefore(t *testing.T) {
	at := time.Unix(1000, 0)
	old, young := identity.Entry{ID: "b", CreatedAt: at}, identity.Entry{ID: "a", CreatedAt: at.Add(1)}
	twin := identity.Entry{ID: "c", CreatedAt: at.UTC()}
	if !old.Before(young) || young.Before(old) || !old.Before(twin) || twin.Before(old) || old.Before(old) {
		t.Error("the order of entries is not by age, then id")
	}
}
