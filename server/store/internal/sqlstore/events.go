package sqlstore

import (
	"context"

	"github.com/authsec-ai/icp/internal/audit"
)

// RecordEvent implements store.Registry. An event without a tenant belongs to the platform.
func (db *DB) RecordEvent(ctx context.Context, ev audit.Event) error {
	return db.RecordEvents(ctx, ev.Tenant, []audit.Event{ev})
}

// RecordEvents implements store.Registry.
func (db *DB) RecordEvents(ctx context.Context, tenant string, events []audit.Event) error {
	owner := ownerOf(tenant)
	return db.mutate(ctx, "record events", owner, func(_ context.Context, t *tx) error {
		for _, ev := range events {
			t.leave(owner, ev)
		}
		return nil
	})
}

// Events implements store.Registry.
func (db *DB) Events(ctx context.Context, tenant string, before int64, limit int) (events []audit.Event, err error) {
	if before <= 0 {
		before = 1 << 62
	}
	owner := ownerOf(tenant)
	err = db.read(ctx, "list audit events", owner, func(t *tx) error {
		events, err = list(ctx, t, scanEvent, `SELECT tenant, seq, time, actor, action, object, outcome, reason, request_id, before, after
			FROM audit_events WHERE tenant = $1 AND seq < $2 ORDER BY seq DESC LIMIT $3`, owner, before, max(limit, 1))
		return err
	})
	return events, err
}

func scanEvent(row Row) (ev audit.Event, err error) {
	var owner string
	var at int64
	var before, after []byte
	err = row.Scan(&owner, &ev.Seq, &at, &ev.Actor, &ev.Action, &ev.Object, &ev.Outcome, &ev.Reason, &ev.RequestID, &before, &after)
	ev.Tenant, ev.Time = tenantOf(owner), fromMicro(at)
	if len(before) > 0 {
		ev.Before = before
	}
	if len(after) > 0 {
		ev.After = after
	}
	return ev, err
}
