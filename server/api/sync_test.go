package api_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/wire"
	"github.com/authsec-ai/icp/server/store"
)

func done(f wire.SyncFrame) bool { return f.Done }

func cursorOf(f wire.SyncFrame) store.Cursor {
	return store.Cursor{Epoch: f.Epoch, Revision: f.Revision}
}

func upserted(id string) func(wire.SyncFrame) bool {
	return func(f wire.SyncFrame) bool {
		for _, e := range f.Upserts {
			if e.ID == id {
				return true
			}
		}
		return false
	}
}

func deleted(id string) func(wire.SyncFrame) bool {
	return func(f wire.SyncFrame) bool {
		for _, gone := range f.Deletes {
			if gone == id {
				return true
			}
		}
		return false
	}
}

func TestSync(t *testing.T) {
	w := newWorld(t)
	a := w.newTenant("acme")
	n := a.attest("n1")
	first := a.entry("n1", "/first", nil)
	s := open[wire.SyncFrame](n.client, wire.PathSync)
	snapshot := s.next(done)
	t.Run("snapshot", func(t *testing.T) {
		if !snapshot.Reset || len(snapshot.Upserts) != 1 || snapshot.Upserts[0].ID != first.ID || snapshot.Settings.RenewAt != 0.66 || snapshot.Bundles["acme.example"] == nil {
			t.Errorf("got %+v", snapshot)
		}
	})
	t.Run("heartbeat", func(t *testing.T) {
		s.next(func(f wire.SyncFrame) bool { return !f.Done && f.Upserts == nil && !f.Time.IsZero() })
	})
	var second identity.Entry
	t.Run("delta after create", func(t *testing.T) {
		second = a.entry("n1", "/second", nil)
		f := s.next(upserted(second.ID))
		if f.Reset || len(f.Upserts) != 1 || f.Revision < second.Revision || f.Upserts[0].SPIFFEID != second.SPIFFEID {
			t.Errorf("got %+v", f)
		}
	})
	t.Run("another agent's entries stay away", func(t *testing.T) {
		foreign := a.entry("n2", "/foreign", nil)
		mine := a.entry("n1", "/mine", nil)
		if f := s.next(upserted(mine.ID)); upserted(foreign.ID)(f) {
			t.Error("it came along")
		}
	})
	t.Run("moved away and back", func(t *testing.T) {
		path := "/api/v1/workloads/" + second.ID
		a.admin.do("PATCH", path, doc(map[string]any{"parent_id": a.spiffeID("/agent/n2")})).want(t, 200, nil)
		s.next(deleted(second.ID))
		a.admin.do("PATCH", path, doc(map[string]any{"parent_id": a.spiffeID("/agent/n1")})).want(t, 200, nil)
		if f := s.next(upserted(second.ID)); deleted(second.ID)(f) {
			t.Error("the frame both adds and deletes it")
		}
	})
	t.Run("changed settings", func(t *testing.T) {
		a.admin.do("PATCH", "/api/v1/tenants/acme", `{"settings": {"renew_at": 0.9}}`).want(t, 200, nil)
		s.next(func(f wire.SyncFrame) bool { return f.Settings != nil && f.Settings.RenewAt == 0.9 })
	})
	t.Run("RV-1/deleted", func(t *testing.T) {
		a.admin.do("DELETE", "/api/v1/workloads/"+second.ID, "").want(t, 204, nil)
		s.next(deleted(second.ID))
	})
}

func TestSyncResumes(t *testing.T) {
	w := newWorld(t)
	a := w.newTenant("acme")
	n := a.attest("n1")
	old := a.entry("n1", "/old", nil)
	at := cursorOf(open[wire.SyncFrame](n.client, wire.PathSync).next(done))
	missed := a.entry("n1", "/missed", nil)
	t.Run("with its cursor", func(t *testing.T) {
		s := open[wire.SyncFrame](n.client, syncPath(at))
		hello := s.next(done)
		if hello.Reset || upserted(old.ID)(hello) || hello.Bundles == nil || hello.Settings == nil {
			t.Errorf("got %+v, want bundles and settings alone", hello)
		}
		if f := s.next(upserted(missed.ID)); f.Reset || upserted(old.ID)(f) || !f.Done {
			t.Errorf("got %+v, want what was missed alone", f)
		}
	})
	for name, c := range map[string]store.Cursor{
		"epoch of another history": {Epoch: "another", Revision: at.Revision},
		"revision of the future":   {Epoch: at.Epoch, Revision: at.Revision + 1000},
		"no revision":              {Epoch: at.Epoch},
	} {
		t.Run(name, func(t *testing.T) {
			f := open[wire.SyncFrame](n.client, syncPath(c)).next(done)
			if !f.Reset || !upserted(old.ID)(f) || !upserted(missed.ID)(f) || cursorOf(f).Epoch != at.Epoch {
				t.Errorf("got %+v, want a snapshot", f)
			}
		})
	}
	t.Run("heartbeats carry the cursor on", func(t *testing.T) {
		s := open[wire.SyncFrame](n.client, wire.PathSync)
		before := cursorOf(s.next(done))
		foreign := a.entry("n2", "/foreign", nil)
		f := s.next(func(f wire.SyncFrame) bool { return f.Done && f.Revision > before.Revision })
		if f.Revision < foreign.Revision || f.Upserts != nil {
			t.Errorf("got %+v", f)
		}
	})
}

func TestSyncOfSharedEntries(t *testing.T) {
	w := newWorld(t)
	a := w.newTenant("acme")
	n := a.attest("n1")
	a.admin.do("PATCH", "/api/v1/tenants/acme", `{"settings": {"any_node": true}}`).want(t, 200, nil)
	var e identity.Entry
	a.admin.do("POST", "/api/v1/workloads", doc(map[string]any{"spiffe_id": a.spiffeID("/anywhere"), "selectors": []string{"unix:uid:1"}})).want(t, 201, &e)
	open[wire.SyncFrame](n.client, wire.PathSync).next(func(f wire.SyncFrame) bool { return f.Reset && upserted(e.ID)(f) })
	_, _, err := n.svid(e)
	check(t, err)
}

// TestSyncOfMany sends more than one frame holds.
func TestSyncOfMany(t *testing.T) {
	const entries = 20
	w := newWorld(t)
	a := w.newTenant("acme")
	n := a.attest("n1")
	selectors := make([]string, 64)
	for i := range selectors {
		selectors[i] = fmt.Sprintf("unix:path:/%03d/%s", i, longText(1000))
	}
	for i := range entries {
		a.entry("n1", fmt.Sprintf("/svc/%d", i), map[string]any{"selectors": selectors})
	}
	s := open[wire.SyncFrame](n.client, wire.PathSync)
	seen, frames := map[string]bool{}, 0
	for {
		f := s.next(func(wire.SyncFrame) bool { return true })
		frames++
		if f.Reset != (frames == 1) {
			t.Fatalf("frame %d has Reset %v", frames, f.Reset)
		}
		for _, e := range f.Upserts {
			seen[e.ID] = true
		}
		if f.Done {
			break
		}
	}
	if len(seen) != entries || frames < 3 {
		t.Errorf("%d entries in %d frames, want %d in several", len(seen), frames, entries)
	}
}

func longText(n int) string {
	text := make([]byte, n)
	for i := range text {
		text[i] = 'a'
	}
	return string(text)
}

func TestSyncEnds(t *testing.T) {
	w := newWorld(t)
	a := w.newTenant("acme")
	follow := func(name string) (*node, *frames[wire.SyncFrame]) {
		n := a.attest(name)
		s := open[wire.SyncFrame](n.client, wire.PathSync)
		s.next(done)
		return n, s
	}
	t.Run("T-27/banned", func(t *testing.T) {
		n, s := follow("n1")
		_, twin := follow("twin")
		a.admin.do("POST", "/api/v1/agents/n1/ban", "").want(t, 204, nil)
		s.ends()
		if again := open[wire.SyncFrame](n.client, wire.PathSync); again.status != 403 {
			t.Errorf("status %d when it comes again", again.status)
		}
		twin.next(func(wire.SyncFrame) bool { return true })
	})
	t.Run("T-27/deleted", func(t *testing.T) {
		_, s := follow("n2")
		a.admin.do("DELETE", "/api/v1/agents/n2", "").want(t, 204, nil)
		s.ends()
	})
	t.Run("T-27/expired", func(t *testing.T) {
		_, s := follow("n3")
		w.clock.Advance(time.Hour + time.Minute)
		s.ends()
	})
	t.Run("server stops", func(t *testing.T) {
		_, s := follow("n4")
		began := time.Now()
		w.stop()
		s.ends()
		if took := time.Since(began); took > 8*time.Second {
			t.Errorf("streams held the server up for %s", took)
		}
	})
}
