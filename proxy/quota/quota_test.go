package quota

import (
	"fmt"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func TestAllow(t *testing.T) {
	now := time.Now()
	l := New(func() time.Time { return now })
	key := Key{spiffeid.RequireFromString("spiffe://td.test/a"), "p"}
	take := func(want bool) {
		t.Helper()
		if wait, ok := l.Allow(key, 6); ok != want || !ok && wait <= 0 {
			t.Fatalf("allowed %v (wait %s), want %v", ok, wait, want)
		}
	}
	for range 6 {
		take(true)
	}
	take(false)
	if wait, _ := l.Allow(key, 6); wait != 10*time.Second {
		t.Errorf("wait %s", wait)
	}
	now = now.Add(10 * time.Second)
	take(true)
	take(false)
	now = now.Add(time.Hour)
	for range 6 {
		take(true)
	}
	take(false)
	if _, ok := l.Allow(key, 0); !ok {
		t.Error("no limit refuses")
	}
}

func TestForgets(t *testing.T) {
	now := time.Now()
	l := New(func() time.Time { return now })
	for i := range 1000 {
		l.Allow(Key{spiffeid.RequireFromString(fmt.Sprintf("spiffe://td.test/%d", i)), "p"}, 60)
	}
	now = now.Add(2 * time.Minute)
	l.Allow(Key{Policy: "q"}, 60)
	if len(l.full) != 1 {
		t.Errorf("%d keys are kept", len(l.full))
	}
}
