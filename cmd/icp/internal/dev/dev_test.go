package dev

import (
	"context"
	"io"
	"log/slog"
	"os"
	"testing"

	"github.com/authsec-ai/icp/cmd/internal/controlplane"
	"github.com/authsec-ai/icp/internal/telemetry"
	"github.com/authsec-ai/icp/server/registry"
	"github.com/authsec-ai/icp/server/store"
)

// openControl opens the control plane of a folder that no icp dev runs on.
func openControl(t *testing.T, dir string) *controlplane.ControlPlane {
	t.Helper()
	tel, err := telemetry.New("test", t.Output(), slog.LevelError)
	if err != nil {
		t.Fatal(err)
	}
	cfg := controlplane.Defaults()
	cfg.DataDir = dir
	control, err := controlplane.Open(t.Context(), cfg, tel)
	if err != nil {
		t.Fatal(err)
	}
	return control
}

// run starts icp dev, waits until it is ready, and ends it.
func run(t *testing.T, dir string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	out, in := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := Run(ctx, Options{Dir: dir, Listen: "127.0.0.1:0", LogLevel: slog.LevelWarn, Stdout: in, Stderr: io.Discard})
		in.CloseWithError(io.EOF)
		ended <- err
	}()
	line := make([]byte, 5)
	_, readErr := io.ReadFull(out, line)
	cancel()
	_, _ = io.Copy(io.Discard, out) // what else it prints
	if err := <-ended; err != nil || readErr != nil || string(line) != "ready" {
		log, _ := os.ReadFile(dir + "/" + logName)
		t.Fatalf("it printed %q (%v) and ended with %v; log:\n%s", line, readErr, err, log)
	}
}

// shortDir is a folder whose socket paths are short enough.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "icp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// TestStarts kills the first start where it hurts most: the tenant is made and
// its samples are not. The next start makes them, and no later one does again.
func TestStarts(t *testing.T) {
	dir := shortDir(t)
	control := openControl(t, dir)
	if _, err := control.Registry.CreateTenant(t.Context(), registry.System(), tenant, trustDomain, store.Settings{}); err != nil {
		t.Fatal(err)
	}
	if err := control.Close(); err != nil {
		t.Fatal(err)
	}
	have := func(entries, policies, joinTokens int) *controlplane.ControlPlane {
		t.Helper()
		control := openControl(t, dir)
		found, _, err := control.Registry.Entries(t.Context(), tenant, store.EntryFilter{SPIFFEID: devID})
		set, setErr := control.Registry.Policies(t.Context(), tenant)
		tokens, tokensErr := control.Registry.JoinTokens(t.Context(), tenant)
		if err != nil || setErr != nil || tokensErr != nil {
			t.Fatal(err, setErr, tokensErr)
		}
		if len(found) != entries || len(set.Policies) != policies || len(tokens) != joinTokens {
			t.Fatalf("%d entries, %d policies, %d join tokens; want %d, %d, %d",
				len(found), len(set.Policies), len(tokens), entries, policies, joinTokens)
		}
		return control
	}

	run(t, dir)
	control = have(1, len(samplePolicies()), 0)
	found, _, _ := control.Registry.Entries(t.Context(), tenant, store.EntryFilter{SPIFFEID: devID})
	if err := control.Registry.DeleteEntry(t.Context(), registry.System(), tenant, found[0].ID); err != nil {
		t.Fatal(err)
	}
	if err := control.Close(); err != nil {
		t.Fatal(err)
	}

	run(t, dir) // the agent comes back by its key
	if err := have(0, len(samplePolicies()), 0).Close(); err != nil {
		t.Fatal(err)
	}
}
