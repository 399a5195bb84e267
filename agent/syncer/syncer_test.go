package syncer_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"

	"github.com/authsec-ai/icp/agent/cache"
	"github.com/authsec-ai/icp/agent/node"
	"github.com/authsec-ai/icp/agent/node/jointoken"
	"github.com/authsec-ai/icp/agent/servertest"
	"github.com/authsec-ai/icp/agent/syncer"
	"github.com/authsec-ai/icp/agent/upstream"
	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/clock"
	"github.com/authsec-ai/icp/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const limit = 20 * time.Second

// mirror keeps what a cache would have, and the changes it came from.
type mirror struct {
	mu      sync.Mutex
	ids     map[string]bool
	changes []cache.Change
}

func (m *mirror) Apply(ch cache.Change) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ch.Reset || m.ids == nil {
		m.ids = map[string]bool{}
	}
	for _, id := range ch.Deletes {
		delete(m.ids, id)
	}
	for _, e := range ch.Upserts {
		m.ids[e.ID] = true
	}
	m.changes = append(m.changes, ch)
}

func (m *mirror) last() (cache.Change, int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.changes) == 0 {
		return cache.Change{}, 0
	}
	return m.changes[len(m.changes)-1], len(m.changes)
}

func (m *mirror) has(t *testing.T, want ...string) {
	t.Helper()
	stage.Eventually(t, limit, func() error {
		m.mu.Lock()
		defer m.mu.Unlock()
		var got []string
		for id := range m.ids {
			got = append(got, id)
		}
		if slices.Sort(got); m.ids == nil || !slices.Equal(got, want) {
			return fmt.Errorf("have %v, want %v", got, want)
		}
		return nil
	})
}

// follow runs a syncer before a server until the test ends.
func follow(t *testing.T, server syncer.Server) (*mirror, *syncer.Syncer) {
	t.Helper()
	m := &mirror{}
	s, err := syncer.New(syncer.Config{Server: server, Cache: m, Clock: clock.System{}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return m, s
}

func realServer(t *testing.T) (*servertest.Server, *upstream.Client) {
	t.Helper()
	server := servertest.Start(t, clock.System{}, servertest.Settings{RenewAt: 0.9})
	id, err := node.Load(node.Config{
		Dir: t.TempDir(), Evidence: jointoken.Evidence{Token: servertest.Token},
		Clock: clock.System{}, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	client, err := upstream.New(upstream.Config{URL: server.URL(), Roots: server.Roots, Certificate: id.Certificate})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	if err := id.Bootstrap(t.Context(), client); err != nil {
		t.Fatal(err)
	}
	return server, client
}

func entry(id string) identity.Entry {
	return identity.Entry{ID: id, Spec: identity.Spec{SPIFFEID: spiffeid.RequireFromString("spiffe://test.example/" + id)}}
}

func TestFollowsTheServer(t *testing.T) {
	server, client := realServer(t)
	server.Put(entry("a"), entry("b"))
	m, s := follow(t, client)
	m.has(t, "a", "b")
	first, _ := m.last()
	if !first.Reset || len(first.Bundles) != 1 || first.RenewAt != 0.9 {
		t.Fatalf("first change %+v", first)
	}
	if s.LastWord().IsZero() {
		t.Fatal("the server was not heard of")
	}
	server.Put(entry("c"))
	m.has(t, "a", "b", "c")
	server.Delete("a")
	m.has(t, "b", "c")
	if delta, _ := m.last(); delta.Reset {
		t.Fatal("a change came as the whole state")
	}
	t.Run("resume", func(t *testing.T) { // with the cursor: only what is new
		server.Down()
		server.Delete("b")
		server.Put(entry("d"))
		server.Up()
		m.has(t, "c", "d")
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, ch := range m.changes[1:] {
			if ch.Reset {
				t.Fatal("the whole state was sent again")
			}
		}
	})
	t.Run("epoch", func(t *testing.T) { // another history: everything anew
		server.Delete("c")
		server.Rewrite("epoch-2")
		m.has(t, "d")
		stage.Eventually(t, limit, func() error {
			if last, _ := m.last(); !last.Reset {
				return errors.New("no whole state")
			}
			return nil
		})
	})
	t.Run("T-27", func(t *testing.T) { // banned: everything goes
		server.Ban()
		m.has(t)
	})
}

// script is a server that gives frames, one list per connection, and notes the
// cursors that it was asked with.
type script struct {
	mu      sync.Mutex
	streams [][]wire.SyncFrame
	asked   []string
}

func (s *script) Sync(ctx context.Context, epoch string, revision int64, each func(wire.SyncFrame) error) error {
	s.mu.Lock()
	s.asked = append(s.asked, fmt.Sprintf("%s/%d", epoch, revision))
	var frames []wire.SyncFrame
	last := len(s.streams) == 0
	if !last {
		frames, s.streams = s.streams[0], s.streams[1:]
	}
	s.mu.Unlock()
	for _, f := range frames {
		if err := each(f); err != nil {
			return err
		}
	}
	if last {
		<-ctx.Done()
	}
	return identity.Errorf(identity.Unavailable, "the stream has ended")
}

func (s *script) cursors(t *testing.T, want ...string) {
	t.Helper()
	stage.Eventually(t, limit, func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !slices.Equal(s.asked, want) {
			return fmt.Errorf("asked with %v, want %v", s.asked, want)
		}
		return nil
	})
}

// A batch counts when it is complete, in the order it came.
func TestBatches(t *testing.T) {
	entries := func(ids ...string) (list []identity.Entry) {
		for _, id := range ids {
			list = append(list, entry(id))
		}
		return list
	}
	t.Run("cut-before-its-end", func(t *testing.T) {
		s := &script{streams: [][]wire.SyncFrame{
			{{Reset: true, Upserts: entries("a")}, {Upserts: entries("b")}}, // cut
			{{Reset: true, Upserts: entries("c")}, {}, {Upserts: entries("d")}, {Done: true, Epoch: "e", Revision: 7}},
			{{Upserts: entries("x")}}, // cut
		}}
		m, _ := follow(t, s)
		s.cursors(t, "/0", "/0", "e/7", "e/7")
		m.has(t, "c", "d")
		if _, n := m.last(); n != 1 {
			t.Fatalf("%d changes", n)
		}
	})
	t.Run("order", func(t *testing.T) {
		s := &script{streams: [][]wire.SyncFrame{{
			{Reset: true, Upserts: entries("a", "b")},
			{Deletes: []string{"a"}}, {Deletes: []string{"b"}}, {Upserts: entries("b")},
			{Done: true, Epoch: "e", Revision: 1},
		}}}
		m, _ := follow(t, s)
		m.has(t, "b")
	})
	t.Run("reset-in-the-middle", func(t *testing.T) {
		s := &script{streams: [][]wire.SyncFrame{{
			{Reset: true, Upserts: entries("a")}, {Reset: true, Upserts: entries("b")}, {Done: true, Epoch: "e", Revision: 1},
		}}}
		m, _ := follow(t, s)
		m.has(t, "b")
	})
	t.Run("other-epoch-without-reset", func(t *testing.T) { // must not be taken for more of the same
		s := &script{streams: [][]wire.SyncFrame{
			{{Reset: true, Upserts: entries("a"), Done: true, Epoch: "e", Revision: 9}},
			{{Upserts: entries("b"), Done: true, Epoch: "f", Revision: 10}},
			{{Reset: true, Upserts: entries("c"), Done: true, Epoch: "f", Revision: 10}},
		}}
		m, _ := follow(t, s)
		s.cursors(t, "/0", "e/9", "/0", "f/10")
		m.has(t, "c")
	})
	t.Run("bad-bundle", func(t *testing.T) { // nothing of that batch counts
		s := &script{streams: [][]wire.SyncFrame{
			{{Reset: true, Upserts: entries("a"), Done: true, Epoch: "e", Revision: 1}},
			{{Upserts: entries("b"), Bundles: map[string]json.RawMessage{"test.example": []byte("{")}, Done: true, Epoch: "e", Revision: 2}},
		}}
		m, _ := follow(t, s)
		s.cursors(t, "/0", "e/1", "e/1")
		m.has(t, "a")
	})
}

// A wake ends the pause between two attempts.
func TestWake(t *testing.T) {
	c := clock.NewManual(time.Now())
	s := &script{streams: make([][]wire.SyncFrame, 3)}
	sy, err := syncer.New(syncer.Config{Server: s, Cache: &mirror{}, Clock: c, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- sy.Run(ctx) }()
	s.cursors(t, "/0") // and it pauses, on a clock that stands still
	sy.Wake()
	s.cursors(t, "/0", "/0")
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
