package api

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/wire"
	"github.com/authsec-ai/icp/server/authn"
	"github.com/authsec-ai/icp/server/store"
)

const (
	// touchEvery is how often a connected agent is noted as heard of.
	touchEvery = 15 * time.Second
	// frameFill is how much of a frame entries may take; the rest is room for
	// bundles and for the frame itself.
	frameFill      = wire.MaxFrameBytes / 2
	defaultRenewAt = 0.66
)

// sync keeps one agent's picture of its entries and bundles equal to ours.
func (a *API) sync(c *call) error {
	revision, err := c.number("revision", 1<<62)
	if err != nil {
		return err
	}
	s, err := c.stream(wire.MaxFrameBytes)
	if err != nil {
		return err
	}
	defer a.metrics.stream(c.ctx, c.route)()
	f := &syncFeed{api: a, call: c, agent: c.principal, out: s}
	at, err := f.begin(c.ctx, store.Cursor{Epoch: c.query.Get("epoch"), Revision: revision})
	if err != nil {
		return err
	}
	return a.follow(c.ctx, c.principal.Tenant, at, f)
}

// syncFeed is the follower of one agent.
type syncFeed struct {
	api     *API
	call    *call
	agent   authn.Principal
	out     *stream
	sent    store.Cursor // that the agent was last told
	touched time.Time
}

// begin sends what the agent lacks: all, unless it comes back with a cursor in
// this epoch; bundles and settings in any case.
func (f *syncFeed) begin(ctx context.Context, at store.Cursor) (store.Cursor, error) {
	if err := f.touch(ctx); err != nil {
		return at, err
	}
	t, err := f.api.Store.Tenant(ctx, f.agent.Tenant)
	if err != nil {
		return at, err
	}
	if at.Epoch != t.Cursor.Epoch || at.Revision <= 0 || at.Revision > t.Cursor.Revision {
		return f.reset(ctx)
	}
	frame, err := f.frame(ctx)
	if err != nil {
		return at, err
	}
	return at, f.done(frame, at)
}

// reset sends the whole state.
func (f *syncFeed) reset(ctx context.Context) (store.Cursor, error) {
	entries, at, err := f.api.entriesOf(ctx, f.agent)
	if err != nil {
		return at, err
	}
	// Read after the entries, so that it is not older than the cursor.
	frame, err := f.frame(ctx)
	if err != nil {
		return at, err
	}
	frame.Reset = true
	return at, f.sendEntries(frame, entries, nil, at)
}

// changed sends those changes that concern this agent. Entries are read as they
// are now, which can be newer than the change: sent twice, they do no harm.
func (f *syncFeed) changed(ctx context.Context, changes []store.Change, at store.Cursor) error {
	frame := &wire.SyncFrame{Time: f.api.Now().UTC()}
	var touched []string
	extras := false
	for _, ch := range changes {
		switch {
		case ch.Kind == store.ChangeEntry && f.concerns(ch.Parent):
			touched = append(touched, ch.Object)
		case ch.Kind == store.ChangeNode && ch.Object == f.agent.SPIFFEID.String():
			if err := f.api.Authn.StillAgent(ctx, f.agent); err != nil {
				return err
			}
		case ch.Kind == store.ChangeBundle || ch.Kind == store.ChangeTenant:
			extras = true
		}
	}
	if extras {
		var err error
		if frame, err = f.frame(ctx); err != nil {
			return err
		}
	}
	if len(touched) == 0 && !extras {
		return nil
	}
	entries, deleted, err := f.current(ctx, touched)
	if err != nil {
		return err
	}
	return f.sendEntries(frame, entries, deleted, at)
}

// idle tells the agent how far it is, notes that it is there, and ends the
// stream of one that may no longer have it.
func (f *syncFeed) idle(ctx context.Context, at store.Cursor) error {
	if err := f.api.Authn.StillAgent(ctx, f.agent); err != nil {
		return err
	}
	if err := f.touch(ctx); err != nil {
		return err
	}
	frame := &wire.SyncFrame{Time: f.api.Now().UTC()}
	if at == f.sent {
		return f.out.send(frame)
	}
	return f.done(frame, at)
}

// concerns reports whether an entry of that parent is this agent's. Entries
// without a parent are every agent's.
func (f *syncFeed) concerns(parent string) bool {
	return parent == "" || parent == f.agent.SPIFFEID.String()
}

// current splits ids into entries that are this agent's now and ids that are
// not. An entry that moved between parents shows up in its changes as both gone
// and there; only what is true now counts.
func (f *syncFeed) current(ctx context.Context, ids []string) ([]identity.Entry, []string, error) {
	slices.Sort(ids)
	ids = slices.Compact(ids)
	if len(ids) == 0 {
		return nil, nil, nil
	}
	found, err := f.api.Store.EntriesByID(ctx, f.agent.Tenant, ids)
	if err != nil {
		return nil, nil, fmt.Errorf("read changed entries: %w", err)
	}
	var mine []identity.Entry
	for _, e := range found {
		if f.concerns(e.ParentID.String()) {
			mine = append(mine, e)
		}
	}
	gone := slices.DeleteFunc(ids, func(id string) bool {
		return slices.ContainsFunc(mine, func(e identity.Entry) bool { return e.ID == id })
	})
	return mine, gone, nil
}

// frame holds bundles and settings as they are now.
func (f *syncFeed) frame(ctx context.Context) (*wire.SyncFrame, error) {
	t, err := f.api.Store.Tenant(ctx, f.agent.Tenant)
	if err != nil {
		return nil, err
	}
	bundle, err := f.api.bundleJSON(f.call, t.ID)
	if err != nil {
		return nil, err
	}
	settings := &wire.AgentSettings{RenewAt: t.Settings.RenewAt}
	if settings.RenewAt == 0 {
		settings.RenewAt = defaultRenewAt
	}
	return &wire.SyncFrame{
		Bundles:  map[string]json.RawMessage{t.TrustDomain: bundle},
		Settings: settings, Time: f.api.Now().UTC(),
	}, nil
}

// sendEntries sends frame with as many entries as fit, further frames with the
// others, and marks the last as the end of the batch.
func (f *syncFeed) sendEntries(frame *wire.SyncFrame, entries []identity.Entry, deleted []string, at store.Cursor) error {
	frame.Deletes = deleted
	filled := 0
	for _, e := range entries {
		size, err := encodedSize(e)
		if err != nil {
			return err
		}
		if filled > 0 && filled+size > frameFill {
			if err := f.out.send(frame); err != nil {
				return err
			}
			frame, filled = &wire.SyncFrame{Time: frame.Time}, 0
		}
		frame.Upserts = append(frame.Upserts, e)
		filled += size
	}
	return f.done(frame, at)
}

func encodedSize(e identity.Entry) (int, error) {
	raw, err := json.Marshal(e)
	if err != nil {
		return 0, fmt.Errorf("encode entry %s: %w", e.ID, err)
	}
	return len(raw) + 1, nil
}

// done sends frame as the end of a batch, after which at is the agent's cursor.
func (f *syncFeed) done(frame *wire.SyncFrame, at store.Cursor) error {
	frame.Done, frame.Epoch, frame.Revision = true, at.Epoch, at.Revision
	f.sent = at
	return f.out.send(frame)
}

// touch notes that the agent is there. Paced in real time, as heartbeats are.
func (f *syncFeed) touch(ctx context.Context) error {
	if now := time.Now(); now.Sub(f.touched) >= touchEvery {
		f.touched = now
		if err := f.api.Store.TouchNode(ctx, f.agent.Tenant, f.agent.SPIFFEID.String(), f.agent.Serial, f.api.Now()); err != nil {
			return fmt.Errorf("note that agent %s is there: %w", f.agent.SPIFFEID, err)
		}
	}
	return nil
}

// entriesOf gives what an agent may ask SVIDs for: entries parented to it and
// those without a parent, oldest first; and a cursor at which none was missing.
func (a *API) entriesOf(ctx context.Context, agent authn.Principal) ([]identity.Entry, store.Cursor, error) {
	own, at, err := a.Store.EntriesByParent(ctx, agent.Tenant, agent.SPIFFEID.String())
	if err != nil {
		return nil, at, err
	}
	shared, later, err := a.Store.EntriesByParent(ctx, agent.Tenant, "")
	if err != nil {
		return nil, at, err
	}
	if later.Epoch != at.Epoch {
		return nil, at, identity.Errorf(identity.Unavailable, "the server was restored while it answered; connect again")
	}
	all := append(own, shared...)
	slices.SortFunc(all, compareEntries)
	return all, at, nil
}

func compareEntries(x, y identity.Entry) int {
	switch {
	case x.Before(y):
		return -1
	case y.Before(x):
		return 1
	}
	return 0
}
