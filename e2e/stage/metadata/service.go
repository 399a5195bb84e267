// Package metadata plays the instance metadata services of AWS, GCP and Azure:
// over a real socket, with the documents' shapes and signatures, but with keys
// and certificates of its own, which it hands to the test. On request it lies.
package metadata

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/authsec-ai/icp/e2e/stage"
)

// Forgery says in what the answers are false. The zero value is honest.
type Forgery struct {
	// Replace in what was signed, after it was signed, is replaced by With. Both
	// have the same length, and what is signed has Replace.
	Replace, With string
	// Stranger has somebody else sign, whose certificates bear the same names.
	Stranger bool
	// Age is how long ago everything is said to have been made.
	Age time.Duration
}

// tamper gives the changed form of something that holds what was signed.
func (f Forgery) tamper(signed []byte) ([]byte, error) {
	if f.Replace == "" {
		return signed, nil
	}
	if len(f.Replace) != len(f.With) || !bytes.Contains(signed, []byte(f.Replace)) {
		return nil, fmt.Errorf("can't forge: %q is not in what was signed, or is not as long as %q", f.Replace, f.With)
	}
	return bytes.ReplaceAll(signed, []byte(f.Replace), []byte(f.With)), nil
}

// Service is what the clouds' services have in common.
type Service struct {
	URL string // http://HOST:PORT

	mu      sync.Mutex
	forgery Forgery
}

// Forge makes the answers false from now on, or honest again.
func (s *Service) Forge(f Forgery) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgery = f
}

func (s *Service) forging() Forgery {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.forgery
}

// start serves at l, or at a loopback port if that is nil.
func (s *Service) start(t stage.T, l net.Listener, h http.Handler) {
	t.Helper()
	if l == nil {
		l = loopback(t)
	}
	s.URL = "http://" + l.Addr().String()
	serve(t, l, h)
}

func loopback(t stage.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	return l
}

// serve answers at l until the test ends.
func serve(t stage.T, l net.Listener, h http.Handler) {
	t.Helper()
	server := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan error)
	go func() { ended <- server.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil {
			t.Errorf("stop a metadata service: %v", err)
			_ = server.Close()
		}
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("a metadata service ended with %v", err)
		}
	})
}

// refusal is an answer that is no success.
type refusal struct {
	status int
	body   string
}

func (r refusal) Error() string { return r.body }

// answering makes a handler of a function that gives an answer's body or a
// refusal; any other error is a failure of the service's own.
func answering(kind string, answer func(r *http.Request) ([]byte, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := answer(r)
		no := refusal{http.StatusInternalServerError, fmt.Sprint(err)}
		if err != nil {
			errors.As(err, &no)
			http.Error(w, no.body, no.status)
			return
		}
		w.Header().Set("Content-Type", kind)
		_, _ = w.Write(body) // whoever has gone has gone
	}
}
