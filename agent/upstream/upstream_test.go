package upstream_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/authsec-ai/icp/agent/node"
	"github.com/authsec-ai/icp/agent/node/jointoken"
	"github.com/authsec-ai/icp/agent/servertest"
	"github.com/authsec-ai/icp/agent/upstream"
	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/clock"
	"github.com/authsec-ai/icp/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const limit = 20 * time.Second

// attested gives a client with an agent's identity before a server.
func attested(t *testing.T, settings servertest.Settings, silence time.Duration) (*servertest.Server, *node.Identity, *upstream.Client) {
	t.Helper()
	server := servertest.Start(t, clock.System{}, settings)
	id, err := node.Load(node.Config{
		Dir: t.TempDir(), Evidence: jointoken.Evidence{Token: servertest.Token},
		Clock: clock.System{}, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	client, err := upstream.New(upstream.Config{
		URL: server.URL(), Roots: server.Roots, Certificate: id.Certificate, Silence: silence,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	if err := id.Bootstrap(t.Context(), client); err != nil {
		t.Fatal(err)
	}
	return server, id, client
}

func TestAddress(t *testing.T) {
	certificate := func() (*tls.Certificate, error) { return nil, errors.New("none") }
	for _, address := range []string{"", "server:8443", "http://server", "https://", "https://user@server", "https://server?x=1", "https://server#x", "://"} {
		if _, err := upstream.New(upstream.Config{URL: address, Certificate: certificate}); err == nil {
			t.Errorf("T-51/refused: %q was accepted", address)
		}
	}
	for _, address := range []string{"https://server:8443", "https://server/spiresvc/"} {
		c, err := upstream.New(upstream.Config{URL: address, Certificate: certificate})
		if err != nil {
			t.Errorf("T-51/twin: %q: %v", address, err)
			continue
		}
		c.Close()
	}
}

// far is a server that answers every request with h.
func far(t *testing.T, h http.HandlerFunc) *upstream.Client {
	t.Helper()
	server := httptest.NewUnstartedServer(h)
	server.EnableHTTP2 = true
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.StartTLS()
	t.Cleanup(server.Close)
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	c, err := upstream.New(upstream.Config{
		URL: server.URL, Roots: pool, Silence: time.Second,
		Certificate: func() (*tls.Certificate, error) { return &tls.Certificate{}, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// Only what the server itself says about a request is taken as its word.
func TestErrors(t *testing.T) {
	problem := func(status int, code string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(status)
			fmt.Fprintf(w, `{"type":"about:blank","status":%d,"code":%q,"detail":"because","id":"other"}`, status, code)
		}
	}
	answer := func(status int, contentType, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			w.WriteHeader(status)
			fmt.Fprint(w, body)
		}
	}
	cases := map[string]struct {
		handler http.HandlerFunc
		code    identity.Code
		text    string
	}{
		"denied":          {problem(403, "permission_denied"), identity.Denied, "because"},
		"unauthenticated": {problem(401, "unauthenticated"), identity.Unauthenticated, "because"},
		"conflict":        {problem(409, "conflict"), identity.Conflict, "because"},
		"unknown-code":    {problem(403, "surprise"), identity.Unavailable, "not the server"},
		"middlebox-403":   {answer(403, "text/html", "<h1>Forbidden</h1>"), identity.Unavailable, "not the server"},
		"json-403":        {answer(403, "application/json", `{"code":"permission_denied"}`), identity.Unavailable, "not the server"},
		"redirect":        {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) }, identity.Unavailable, "not the server"},
		"not-json":        {answer(200, "application/json", "hello"), identity.Unavailable, "read the server's answer"},
		"endless": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.Copy(w, io.LimitReader(spaces{}, 9<<20)) // the client leaves
		}, identity.Unavailable, "read the server's answer"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := far(t, c.handler).Sign(t.Context(), wire.SignRequest{})
			if identity.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.text) {
				t.Fatalf("got %v (code %q), want code %q", err, identity.CodeOf(err), c.code)
			}
		})
	}
	t.Run("untrusted", func(t *testing.T) {
		server := servertest.Start(t, clock.System{}, servertest.Settings{})
		c, err := upstream.New(upstream.Config{
			URL: server.URL(), Roots: x509.NewCertPool(), Certificate: func() (*tls.Certificate, error) { return nil, errors.New("none") },
		})
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Attest(t.Context(), wire.AttestRequest{})
		if identity.CodeOf(err) != identity.Unavailable || !strings.Contains(err.Error(), "is not trusted") {
			t.Fatalf("got %v", err)
		}
	})
}

type spaces struct{}

func (spaces) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

func TestSync(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	stop := errors.New("enough")
	t.Run("frames", func(t *testing.T) {
		server, _, client := attested(t, servertest.Settings{Heartbeat: 10 * time.Millisecond}, 0)
		server.Put(identity.Entry{ID: "one"})
		frames, beats := 0, 0
		err := client.Sync(ctx, "", 0, func(f wire.SyncFrame) error {
			if frames++; frames == 1 && (!f.Reset || !f.Done || len(f.Upserts) != 1) {
				t.Errorf("first frame %+v", f)
			}
			if !f.Done {
				beats++
			}
			if beats == 3 {
				return stop
			}
			return nil
		})
		if !errors.Is(err, stop) {
			t.Fatal(err)
		}
	})
	t.Run("silence", func(t *testing.T) {
		_, _, client := attested(t, servertest.Settings{Heartbeat: time.Hour}, 50*time.Millisecond)
		err := client.Sync(ctx, "", 0, func(wire.SyncFrame) error { return nil })
		if identity.CodeOf(err) != identity.Unavailable || !strings.Contains(err.Error(), "said nothing") {
			t.Fatalf("got %v", err)
		}
	})
	t.Run("replaced", func(t *testing.T) {
		_, id, client := attested(t, servertest.Settings{}, 0)
		before, err := id.Certificate()
		if err != nil {
			t.Fatal(err)
		}
		err = client.Sync(ctx, "", 0, func(wire.SyncFrame) error { client.Reconnect(); return nil })
		if !errors.Is(err, upstream.ErrReplaced) {
			t.Fatalf("got %v", err)
		}
		after, err := id.Certificate()
		if err != nil || after != before {
			t.Fatal(err)
		}
	})
	t.Run("server-down", func(t *testing.T) {
		server, _, client := attested(t, servertest.Settings{}, 0)
		err := client.Sync(ctx, "", 0, func(wire.SyncFrame) error { go server.Down(); return nil })
		if identity.CodeOf(err) != identity.Unavailable {
			t.Fatalf("got %v", err)
		}
	})
	t.Run("context", func(t *testing.T) {
		_, _, client := attested(t, servertest.Settings{}, 0)
		ctx, cancel := context.WithCancel(ctx)
		err := client.Sync(ctx, "", 0, func(wire.SyncFrame) error { cancel(); return nil })
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v", err)
		}
	})
	t.Run("line-too-long", func(t *testing.T) {
		client := far(t, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.Copy(w, io.LimitReader(spaces{}, wire.MaxFrameBytes+1)) // the client leaves
		})
		err := client.Sync(ctx, "", 0, func(wire.SyncFrame) error { return nil })
		if identity.CodeOf(err) != identity.Unavailable || !strings.Contains(err.Error(), "too long") {
			t.Fatalf("got %v", err)
		}
	})
	t.Run("not-json", func(t *testing.T) {
		client := far(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "{") })
		err := client.Sync(ctx, "", 0, func(wire.SyncFrame) error { return nil })
		if identity.CodeOf(err) != identity.Unavailable {
			t.Fatalf("got %v", err)
		}
	})
}

// Requests go over HTTP/2 and TLS 1.3.
func TestConnection(t *testing.T) {
	seen := make(chan *http.Request, 2)
	client := far(t, func(w http.ResponseWriter, r *http.Request) {
		seen <- r
		fmt.Fprint(w, "{}")
	})
	if _, err := client.Sign(t.Context(), wire.SignRequest{}); err != nil {
		t.Fatal(err)
	}
	if r := <-seen; r.ProtoMajor != 2 || r.TLS.Version != tls.VersionTLS13 {
		t.Fatalf("%s over TLS %x", r.Proto, r.TLS.Version)
	}
}
