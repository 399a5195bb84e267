package telemetry

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestLimit(t *testing.T) {
	var out bytes.Buffer
	log := Limit(slog.New(slog.NewTextHandler(&out, nil)), "uid")
	now := time.Unix(1e9, 0)
	write := func(uid int, message string) {
		r := slog.NewRecord(now, slog.LevelInfo, message, 0)
		r.Add("uid", uid)
		if err := log.With("a", 1).Handler().Handle(context.Background(), r); err != nil {
			t.Fatal(err)
		}
	}
	for range 100 {
		write(1, "refused")
	}
	if n := strings.Count(out.String(), "refused"); n != limitLines {
		t.Errorf("%d lines of one kind", n)
	}
	out.Reset()
	write(2, "refused")
	write(1, "other")
	if n := strings.Count(out.String(), "\n"); n != 2 {
		t.Errorf("a flood hides lines of other kinds: %s", &out)
	}
	out.Reset()
	now = now.Add(limitWindow)
	write(1, "refused")
	write(1, "refused")
	if n := strings.Count(out.String(), "left_out=80"); n != 1 || strings.Count(out.String(), "\n") != 2 {
		t.Errorf("what was left out is not told once: %s", &out)
	}
	for i := range 3 * limitKinds {
		write(i, "refused")
	}
	handler := log.Handler().(limited)
	if n := len(handler.lines.seen); n > limitKinds {
		t.Errorf("%d kinds are remembered", n)
	}
}
