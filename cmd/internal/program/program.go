// Package program holds what the main functions of all programs do alike: one
// clear line on failure, and an end on SIGTERM or Ctrl-C.
package program

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"
)

// Main runs one program until it ends or is told to, and gives its exit status.
func Main(name string, run func(ctx context.Context) error) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		return 1
	}
	return 0
}

// Version is the version that the Go tool recorded in the program.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "unknown"
	}
	return info.Main.Version
}

// ParseLevel reads a log level: debug, info, warn or error.
func ParseLevel(text string) (slog.Level, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(text)); err != nil {
		return 0, fmt.Errorf("log level %q: write debug, info, warn or error", text)
	}
	return level, nil
}

// ListenLoopback binds an address for health and metrics, which ask nobody who
// they are and so answer on this host alone.
func ListenLoopback(what, addr string) (net.Listener, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("%s %s: write it as address:port, for example 127.0.0.1:8081", what, addr)
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return nil, fmt.Errorf("%s %s: it is served on loopback only, for example on 127.0.0.1:8081", what, addr)
	}
	return net.Listen("tcp", addr)
}

// ServeHTTP serves handler on l until ctx ends, then gives requests a second to
// finish.
func ServeHTTP(ctx context.Context, l net.Listener, handler http.Handler) error {
	srv := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		drain, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if srv.Shutdown(drain) != nil {
			_ = srv.Close() // cuts what did not finish
		}
	})
	err := srv.Serve(l)
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// Usage prints text to w when flags ask for help.
func Usage(w io.Writer, text string) func() {
	return func() { fmt.Fprint(w, text) }
}
