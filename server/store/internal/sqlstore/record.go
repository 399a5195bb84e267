package sqlstore

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/audit"
	"github.com/authsec-ai/icp/server/store"
)

// record is what a mutation leaves behind beside its rows. finish numbers it.
type record struct {
	tenant  string
	changes []store.Change // none: the mutation makes no revision
	event   audit.Event
	entry   string // ID of the entry that carries the revision, "" if none

	cursor store.Cursor // filled in by finish
}

// leave adds a record to the transaction. The event belongs to tenant.
func (t *tx) leave(tenant string, ev audit.Event, changes ...store.Change) *record {
	ev.Tenant = tenant
	r := &record{tenant: tenant, event: ev, changes: changes}
	t.records = append(t.records, r)
	return r
}

// count is how many numbers a transaction needs of one tenant.
type count struct{ revisions, events int64 }

// counters are a tenant's numbers after they were taken.
type counters struct {
	epoch         string
	revision, seq int64
}

// takeCounters raises the tenant's counters and holds their row until commit:
// whoever wants the next numbers waits until these are visible, or gone.
func takeCounters(ctx context.Context, t *tx, tenant string, c count) (counters, error) {
	var got counters
	err := t.row(ctx, `UPDATE counters SET revision = revision + $2, seq = seq + $3 WHERE tenant = $1
		RETURNING epoch, revision, seq`, tenant, c.revisions, c.events).Scan(&got.epoch, &got.revision, &got.seq)
	if errors.Is(err, sql.ErrNoRows) {
		return counters{}, notFound("tenant", tenant)
	}
	return got, err
}

// finish numbers and writes what the mutations of a transaction left, tenant by tenant.
func (db *DB) finish(ctx context.Context, t *tx) error {
	byTenant := map[string][]*record{}
	var order []string
	for _, r := range t.records {
		if byTenant[r.tenant] == nil {
			order = append(order, r.tenant)
		}
		byTenant[r.tenant] = append(byTenant[r.tenant], r)
	}
	for _, tenant := range order {
		if err := db.finishTenant(ctx, t, tenant, byTenant[tenant]); err != nil {
			return err
		}
	}
	return nil
}

func (db *DB) finishTenant(ctx context.Context, t *tx, tenant string, records []*record) error {
	need := count{events: int64(len(records))}
	for _, r := range records {
		if len(r.changes) > 0 {
			need.revisions++
		}
	}
	last, err := db.hooks.number(ctx, t, tenant, need)
	if err != nil {
		return fmt.Errorf("take revision: %w", err)
	}
	number(records, last, need)
	if err := writeRevisions(ctx, t, tenant, records); err != nil {
		return fmt.Errorf("write changes: %w", err)
	}
	if err := writeEvents(ctx, t, tenant, records); err != nil {
		return fmt.Errorf("write audit events: %w", err)
	}
	return nil
}

// number deals out the numbers that end at last.
func number(records []*record, last counters, taken count) {
	revision, seq := last.revision-taken.revisions, last.seq-taken.events
	for _, r := range records {
		seq++
		r.event.Seq = seq
		if len(r.changes) > 0 {
			revision++
			r.cursor = store.Cursor{Epoch: last.epoch, Revision: revision}
		}
	}
}

type changeRow struct {
	Revision int64  `json:"revision"`
	Ord      int    `json:"ord"`
	Kind     string `json:"kind"`
	Object   string `json:"object"`
	Parent   string `json:"parent"`
	Deleted  bool   `json:"deleted"`
}

type entryRow struct {
	ID       string `json:"id"`
	Revision int64  `json:"revision"`
}

func writeRevisions(ctx context.Context, t *tx, tenant string, records []*record) error {
	var changes []changeRow
	var entries []entryRow
	for _, r := range records {
		for i, c := range r.changes {
			changes = append(changes, changeRow{r.cursor.Revision, i, c.Kind, c.Object, c.Parent, c.Deleted})
		}
		if r.entry != "" {
			entries = append(entries, entryRow{r.entry, r.cursor.Revision})
		}
	}
	if err := writeChanges(ctx, t, tenant, changes); err != nil || len(entries) == 0 {
		return err
	}
	return setEntryRevisions(ctx, t, tenant, entries)
}

func writeChanges(ctx context.Context, t *tx, tenant string, rows []changeRow) error {
	if len(rows) == 0 {
		return nil
	}
	text, err := toJSON(rows)
	if err != nil {
		return err
	}
	from := t.dialect.Records(2, Column{"revision", "BIGINT"}, Column{"ord", "BIGINT"}, Column{"kind", "TEXT"},
		Column{"object", "TEXT"}, Column{"parent", "TEXT"}, Column{"deleted", "BOOLEAN"})
	_, err = t.exec(ctx, `INSERT INTO changes (tenant, revision, ord, kind, object, parent, deleted)
		SELECT CAST($1 AS TEXT), r.revision, r.ord, r.kind, r.object, r.parent, r.deleted FROM `+from+` WHERE true`, tenant, text)
	return err
}

// setEntryRevisions runs after the counter was taken; the rows are locked by
// this transaction already, so it waits for nobody.
func setEntryRevisions(ctx context.Context, t *tx, tenant string, rows []entryRow) error {
	text, err := toJSON(rows)
	if err != nil {
		return err
	}
	from := t.dialect.Records(2, Column{"id", "TEXT"}, Column{"revision", "BIGINT"})
	// Two mutations of one entry may share a transaction: the later one counts.
	_, err = t.exec(ctx, `UPDATE entries SET revision = n.revision
		FROM (SELECT r.id, MAX(r.revision) AS revision FROM `+from+` GROUP BY r.id) AS n
		WHERE entries.tenant = $1 AND entries.id = n.id`, tenant, text)
	return err
}

type eventRow struct {
	Seq       int64  `json:"seq"`
	Time      int64  `json:"time"`
	Actor     string `json:"actor"`
	Action    string `json:"action"`
	Object    string `json:"object"`
	Outcome   string `json:"outcome"`
	Reason    string `json:"reason"`
	RequestID string `json:"request_id"`
	Before    string `json:"before"`
	After     string `json:"after"`
}

func writeEvents(ctx context.Context, t *tx, tenant string, records []*record) error {
	rows := make([]eventRow, 0, len(records))
	for _, r := range records {
		e := r.event
		rows = append(rows, eventRow{e.Seq, toMicro(e.Time), clean(e.Actor), clean(e.Action), clean(e.Object),
			e.Outcome, clean(e.Reason), clean(e.RequestID), string(e.Before), string(e.After)})
	}
	text, err := toJSON(rows)
	if err != nil {
		return err
	}
	from := t.dialect.Records(2, Column{"seq", "BIGINT"}, Column{"time", "BIGINT"}, Column{"actor", "TEXT"},
		Column{"action", "TEXT"}, Column{"object", "TEXT"}, Column{"outcome", "TEXT"}, Column{"reason", "TEXT"},
		Column{"request_id", "TEXT"}, Column{"before", "TEXT"}, Column{"after", "TEXT"})
	_, err = t.exec(ctx, `INSERT INTO audit_events
		(tenant, seq, time, actor, action, object, outcome, reason, request_id, before, after)
		SELECT CAST($1 AS TEXT), r.seq, r.time, r.actor, r.action, r.object, r.outcome, r.reason, r.request_id, r.before, r.after
		FROM `+from+` WHERE true`, tenant, text)
	return err
}

// clean replaces what PostgreSQL can't keep in text: an event that quotes
// hostile input must not fail for it.
func clean(s string) string { return strings.ReplaceAll(s, "\x00", "\uFFFD") }

// committed tells those who wait, here and in other processes.
func (db *DB) committed(records []*record) {
	for _, r := range records {
		if len(r.changes) == 0 {
			continue
		}
		db.watch.publish(r.tenant, r.cursor)
		if db.cfg.Announce != nil {
			db.watch.toAnnounce(r.tenant)
		}
	}
}

func toJSON(v any) (string, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return "", &identity.Error{Code: identity.Invalid, Message: "it can't be stored as JSON", Err: err}
	}
	return string(raw), nil
}
