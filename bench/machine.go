package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/authsec-ai/icp/bench/internal/report"
)

// facts say what was measured, when, and on what.
func facts(ctx context.Context) []report.Fact {
	return []report.Fact{
		{Name: "date", Value: time.Now().UTC().Format(time.RFC3339)},
		{Name: "commit", Value: commit(ctx)},
		{Name: "machine", Value: fmt.Sprintf("%s, %d cores, Linux %s", processor(), runtime.NumCPU(), kernel())},
		{Name: "Go", Value: runtime.Version()},
		{Name: "load average before", Value: loadAverage()},
	}
}

const unknown = "unknown"

func commit(ctx context.Context) string {
	head, err := exec.CommandContext(ctx, "git", "rev-parse", "--short=12", "HEAD").Output()
	if err != nil {
		return unknown
	}
	changed, err := exec.CommandContext(ctx, "git", "status", "--porcelain", "--untracked-files=no").Output()
	if err != nil || len(changed) > 0 {
		return strings.TrimSpace(string(head)) + ", with changes"
	}
	return strings.TrimSpace(string(head))
}

func processor() string {
	raw, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return unknown
	}
	for line := range strings.Lines(string(raw)) {
		if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

func kernel() string {
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return unknown
	}
	return unix.ByteSliceToString(name.Release[:])
}

func loadAverage() string {
	raw, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return unknown
	}
	return strings.Join(strings.Fields(string(raw))[:3], " ")
}
