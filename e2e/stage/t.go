package stage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"
)

// T is what a component needs of whoever starts it. A testing.TB is one, for
// tests and benchmarks; a Session is one, for programs.
type T interface {
	Helper()
	Context() context.Context // ends before the clean-ups run
	Cleanup(func())           // the last one first
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Failed() bool
}

// Proof is what a component has shown of itself.
type Proof struct {
	Version string
	Ready   time.Duration // from its start to its first good answer
	Fact    string        // what only the real thing does, refused and accepted
}

// Session is a T for programs that are no tests.
type Session struct {
	ctx    context.Context
	cancel context.CancelFunc

	mu       sync.Mutex
	cleanups []func()
	errs     []error
}

// Run calls f with a Session and undoes what f started, however f ends. The
// error is what f reported through Errorf and Fatalf.
func Run(ctx context.Context, f func(s *Session)) error {
	ctx, cancel := context.WithCancel(ctx)
	s := &Session{ctx: ctx, cancel: cancel}
	ended := make(chan struct{})
	go func() { // of its own: Fatalf ends it
		defer close(ended)
		defer s.cleanUp()
		f(s)
	}()
	<-ended
	return errors.Join(s.errs...)
}

func (s *Session) cleanUp() {
	s.cancel()
	s.undoAll()
}

// undoAll goes on when a clean-up ends the goroutine or panics.
func (s *Session) undoAll() {
	undo := s.last()
	if undo == nil {
		return
	}
	defer s.undoAll()
	undo()
}

// last takes the last clean-up away; one may have added others meanwhile.
func (s *Session) last() func() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.cleanups) == 0 {
		return nil
	}
	end := len(s.cleanups) - 1
	undo := s.cleanups[end]
	s.cleanups = s.cleanups[:end]
	return undo
}

// Helper does nothing: a Session's messages name no lines.
func (s *Session) Helper() {}

// Context ends before the clean-ups run.
func (s *Session) Context() context.Context { return s.ctx }

// Cleanup has undo run at the end.
func (s *Session) Cleanup(undo func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cleanups = append(s.cleanups, undo)
}

// Logf prints to standard error.
func (s *Session) Logf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// Errorf notes a failure.
func (s *Session) Errorf(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.errs = append(s.errs, fmt.Errorf(format, args...))
}

// Fatalf notes a failure and ends the function that Run called, or the clean-up;
// call it on that function's goroutine alone.
func (s *Session) Fatalf(format string, args ...any) {
	s.Errorf(format, args...)
	runtime.Goexit()
}

// Failed says whether a failure was noted.
func (s *Session) Failed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.errs) > 0
}
