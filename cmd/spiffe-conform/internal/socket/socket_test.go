package socket

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/reflection"
	reflectionv1alpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParseAddress(t *testing.T) {
	for text, want := range map[string]string{
		"unix:///run/a.sock": "unix:///run/a.sock", "unix:/run/a.sock": "unix:///run/a.sock", "tcp://127.0.0.1:80": "tcp://127.0.0.1:80",
	} {
		if got, err := ParseAddress(text); err != nil || got.String() != want {
			t.Errorf("%s gives %s, %v", text, got, err)
		}
	}
	for _, bad := range []string{
		"", "/run/a.sock", "unix:a.sock", "unix://host/a.sock", "unix:////a", "unix:///a?b", "unix:///a#b", "http://127.0.0.1:80",
		"tcp://localhost:80", "tcp://127.0.0.1", "tcp://127.0.0.1:80/a",
	} {
		if got, err := ParseAddress(bad); err == nil {
			t.Errorf("%q is accepted as %s", bad, got)
		}
	}
}

// TestReflectOld asks a server that has the forerunner of reflection alone, and
// one that has none.
func TestReflectOld(t *testing.T) {
	client := start(t, func(s *grpc.Server) {
		reflectionv1alpha.RegisterServerReflectionServer(s, reflection.NewServer(reflection.ServerOptions{Services: s}))
	})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	seen, err := Reflect(ctx, client)
	if err != nil {
		t.Fatal(err)
	}
	if !seen.Lists(WorkloadAPI) || len(seen.Files) == 0 {
		t.Errorf("it shows the services %s and %d files", seen, len(seen.Files))
	}
	without := start(t, func(*grpc.Server) {})
	if _, err := Reflect(ctx, without); !errors.Is(err, ErrNoReflection) {
		t.Errorf("without reflection: %v", err)
	}
}

func start(t *testing.T, register func(*grpc.Server)) *Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(server, workload.UnimplementedSpiffeWorkloadAPIServer{})
	register(server)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	client, err := Open(Address{network: "unix", path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
		server.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return client
}
