// Package program holds what the main functions of all programs do alike: one
// clear line on failure, and an end on SIGTERM or Ctrl-C.
package program

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"
)

// Main runs one program until it ends or is told to, and gives its exit status.
func Main(name string, run func(ctx context.Context) error) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil && !errors.Is(err, context.Canceled) {
		oneLine := strings.Join(strings.Fields(err.Error()), " ")
		fmt.Fprintf(os.Stderr, "%s: %s\n", name, oneLine)
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

// Flags are the flags that every service program has.
type Flags struct {
	Config   string // path of the configuration file, "" for none
	LogLevel slog.Level
	Done     bool // help or version was asked for and has been printed
}

// ParseFlags reads the flags of the program called name; usage is its help.
func ParseFlags(name, usage string, args []string) (Flags, error) {
	set := flag.NewFlagSet(name, flag.ContinueOnError)
	set.SetOutput(io.Discard) // an error is printed once, by Main
	set.Usage = func() {}
	var f Flags
	set.StringVar(&f.Config, "config", "", "")
	level := set.String("log-level", "info", "")
	version := set.Bool("version", false, "")
	err := set.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Print(usage)
		return Flags{Done: true}, nil
	case err != nil:
		return f, fmt.Errorf("%w; see %s --help", err, name)
	case set.NArg() > 0:
		return f, fmt.Errorf("%q is not a flag; see %s --help", set.Arg(0), name)
	case *version:
		fmt.Println(name, Version())
		return Flags{Done: true}, nil
	}
	f.LogLevel, err = ParseLevel(*level)
	return f, err
}
