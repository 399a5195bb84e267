package program

import (
	"log/slog"
	"strings"
	"testing"
)

func TestParseFlags(t *testing.T) {
	f, err := ParseFlags("p", "help", []string{"--config", "a.yaml", "--log-level=debug"})
	if err != nil || f.Config != "a.yaml" || f.LogLevel != slog.LevelDebug || f.Done {
		t.Errorf("got %+v, %v", f, err)
	}
	for args, want := range map[string]string{
		"--confg a":        "confg",
		"--log-level loud": "write debug, info, warn or error",
		"a.yaml":           "is not a flag",
	} {
		if _, err := ParseFlags("p", "help", strings.Fields(args)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want an error with %q", args, err, want)
		}
	}
}

func TestListenLoopback(t *testing.T) {
	for addr, ok := range map[string]bool{"127.0.0.1:0": true, "[::1]:0": true, "0.0.0.0:0": false, "192.0.2.1:80": false, "localhost": false, ":0": false} {
		l, err := ListenLoopback("health_listen", addr)
		if l != nil {
			l.Close()
		}
		if (err == nil) != ok {
			t.Errorf("%s: %v", addr, err)
		}
	}
}
