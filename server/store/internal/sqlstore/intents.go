package sqlstore

import (
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/server/store"
)

// The states of an issuance.
const (
	stateIntent    = "intent"
	stateIssued    = "issued"
	stateAbandoned = "abandoned"
)

// intentRow is a row of table issuances, as JSON for Records.
type intentRow struct {
	Serial        string `json:"serial"`
	Kind          string `json:"kind"`
	RequestID     string `json:"request_id"`
	EntryID       string `json:"entry_id"`
	EntryRevision int64  `json:"entry_revision"`
	SPIFFEID      string `json:"spiffe_id"`
	Evidence      string `json:"evidence"`
	SPKI          string `json:"spki"`
	NotBefore     int64  `json:"not_before"`
	ExpiresAt     int64  `json:"expires_at"`
}

const issuanceColumns = `serial, kind, request_id, entry_id, entry_revision, spiffe_id, evidence, spki, not_before, expires_at`

func rowOf(in store.Intent) intentRow {
	return intentRow{in.Serial, string(in.Kind), in.RequestID, in.EntryID, in.EntryRevision, in.SPIFFEID.String(),
		in.Evidence, hex.EncodeToString(in.SPKI), toMicro(in.NotBefore), toMicro(in.ExpiresAt)}
}

func scanIssuance(row Row) (is store.Issuance, err error) {
	var r intentRow
	err = row.Scan(&is.Tenant, &is.Node, &is.State, &r.Serial, &r.Kind, &r.RequestID, &r.EntryID, &r.EntryRevision,
		&r.SPIFFEID, &r.Evidence, &r.SPKI, &r.NotBefore, &r.ExpiresAt)
	if err != nil {
		return is, err
	}
	is.Intent, err = r.intent()
	return is, err
}

func (r intentRow) intent() (store.Intent, error) {
	id, err := spiffeid.FromString(r.SPIFFEID)
	if err != nil {
		return store.Intent{}, fmt.Errorf("read issuance %s: %w", r.Serial, err)
	}
	in := store.Intent{Kind: identity.Kind(r.Kind), Serial: r.Serial, RequestID: r.RequestID, EntryID: r.EntryID,
		EntryRevision: r.EntryRevision, SPIFFEID: id, Evidence: r.Evidence,
		NotBefore: fromMicro(r.NotBefore), ExpiresAt: fromMicro(r.ExpiresAt)}
	if r.SPKI != "" {
		in.SPKI, err = hex.DecodeString(r.SPKI)
	}
	return in, err
}

// RecordIntents implements store.Issuances, in steps: hold the node and the
// entries, refuse what they do not allow, write the rest, and give back what was
// there already.
func (db *DB) RecordIntents(ctx context.Context, tenant, node string, now time.Time, items []store.Intent) ([]store.Intent, []error, error) {
	var b *intentBatch
	err := db.write(ctx, "record intents", Scope{Tenant: tenant}, func(ctx context.Context, t *tx) error {
		b = newIntentBatch(tenant, node, now, items)
		return b.run(ctx, t)
	})
	if err != nil {
		return nil, nil, err
	}
	return b.out, b.errs, nil
}

// intentBatch is one call of RecordIntents. Item i is decided when errs[i] is
// set or done[i] is true.
type intentBatch struct {
	tenant, node string
	now          time.Time
	items, out   []store.Intent
	errs         []error
	done         []bool
}

func newIntentBatch(tenant, node string, now time.Time, items []store.Intent) *intentBatch {
	n := len(items)
	return &intentBatch{tenant: tenant, node: node, now: now, items: items,
		out: make([]store.Intent, n), errs: make([]error, n), done: make([]bool, n)}
}

func (b *intentBatch) run(ctx context.Context, t *tx) error {
	b.checkItems()
	grants, err := b.hold(ctx, t)
	var refusal *identity.Error
	switch {
	case errors.As(err, &refusal):
		for i := range b.items {
			b.errs[i] = refusal
		}
		return nil
	case err != nil:
		return fmt.Errorf("hold node and entries: %w", err)
	}
	for _, i := range b.open() {
		b.errs[i] = b.refuse(b.items[i], grants)
	}
	if err := b.insert(ctx, t); err != nil {
		return err
	}
	return b.answerRetries(ctx, t)
}

// open gives the indexes of the items that are not decided yet.
func (b *intentBatch) open() []int {
	var open []int
	for i := range b.items {
		if b.errs[i] == nil && !b.done[i] {
			open = append(open, i)
		}
	}
	return open
}

// checkItems refuses what is incomplete and what uses a serial or request ID
// of an earlier item of the same call.
func (b *intentBatch) checkItems() {
	serials, requests := map[string]bool{}, map[string]bool{}
	for i, in := range b.items {
		switch {
		case in.Serial == "" || in.Kind == "" || in.SPIFFEID.IsZero() || !in.ExpiresAt.After(b.now):
			b.errs[i] = identity.Errorf(identity.Invalid, "an intent needs a serial, a kind, a SPIFFE ID and an expiry to come")
		case serials[in.Serial]:
			b.errs[i] = conflict(in.Serial, "serial %q is in use", in.Serial)
		case in.RequestID != "" && requests[in.RequestID]:
			b.errs[i] = conflict("", "request ID %q comes twice in one call", identity.Clip(in.RequestID))
		}
		serials[in.Serial], requests[in.RequestID] = true, true
	}
}

// grant is what an entry allows now.
type grant struct {
	id, spiffeID, parent string
	revision             int64
}

// right is whether the node may have credentials at all.
type right struct {
	banned  bool
	expires int64
}

func (r right) refuse(now time.Time) error {
	switch {
	case r.banned:
		return identity.Errorf(identity.Denied, "the node is banned")
	case r.expires <= toMicro(now):
		return identity.Errorf(identity.Denied, "the node's SVID has expired; it must renew first")
	}
	return nil
}

// hold keeps the node from being banned or deleted, and the entries of open
// items from being changed or deleted, until commit: nothing comes between the
// check and the record. It gives the entries, or as *identity.Error the refusal
// of the node.
func (b *intentBatch) hold(ctx context.Context, t *tx) (map[string]grant, error) {
	var ids []string
	for _, i := range b.open() {
		ids = append(ids, b.items[i].EntryID)
	}
	slices.Sort(ids)
	among, arg := anyOf(t.dialect, "e.id", 3, slices.Compact(ids))
	var node right
	found, err := list(ctx, t, func(row Row) (g grant, err error) {
		err = row.Scan(&node.banned, &node.expires, &g.id, &g.spiffeID, &g.parent, &g.revision)
		return g, err
	}, `SELECT n.banned, n.expires_at, e.id, e.spiffe_id, e.parent_id, e.revision FROM nodes n JOIN entries e ON e.tenant = n.tenant
		WHERE n.tenant = $1 AND n.id = $2 AND `+among+` ORDER BY e.id`+t.dialect.Lock(Shared), b.tenant, b.node, arg)
	if err == nil && len(found) == 0 {
		node, err = b.holdNode(ctx, t)
	}
	if err == nil {
		err = node.refuse(b.now)
	}
	if err != nil {
		return nil, err
	}
	grants := make(map[string]grant, len(found))
	for _, g := range found {
		grants[g.id] = g
	}
	return grants, nil
}

// holdNode is for a call of which no entry exists: it is the node's refusal that counts.
func (b *intentBatch) holdNode(ctx context.Context, t *tx) (node right, err error) {
	err = t.row(ctx, `SELECT banned, expires_at FROM nodes WHERE tenant = $1 AND id = $2`+t.dialect.Lock(Shared),
		b.tenant, b.node).Scan(&node.banned, &node.expires)
	if errors.Is(err, sql.ErrNoRows) {
		err = identity.Errorf(identity.Denied, "the node is not attested")
	}
	return node, err
}

func (b *intentBatch) refuse(in store.Intent, grants map[string]grant) error {
	g, ok := grants[in.EntryID]
	switch {
	case !ok || (g.parent != "" && g.parent != b.node):
		return identity.Errorf(identity.Denied, "the node has no entry %q", identity.Clip(in.EntryID))
	case g.revision != in.EntryRevision:
		return identity.Errorf(identity.Denied, "entry %q is no longer at revision %d; sync first", in.EntryID, in.EntryRevision)
	case g.spiffeID != in.SPIFFEID.String():
		return identity.Errorf(identity.Denied, "entry %q is not for that SPIFFE ID", in.EntryID)
	}
	return nil
}

// insert writes the open items in one statement. Those that a unique constraint
// keeps out stay open.
func (b *intentBatch) insert(ctx context.Context, t *tx) error {
	open := b.open()
	if len(open) == 0 {
		return nil
	}
	rows := make([]intentRow, 0, len(open))
	for _, i := range open {
		rows = append(rows, rowOf(b.items[i]))
	}
	written, err := insertIssuances(ctx, t, b.tenant, b.node, rows)
	if err != nil {
		return fmt.Errorf("write intents: %w", err)
	}
	for n, i := range open {
		if b.done[i] = written[rows[n].Serial]; !b.done[i] {
			continue
		}
		if b.out[i], err = rows[n].intent(); err != nil {
			return err
		}
	}
	return nil
}

// answerRetries decides the items that are left: one whose request ID this node
// used before gets the intent of then, the others are Conflicts.
func (b *intentBatch) answerRetries(ctx context.Context, t *tx) error {
	open := b.open()
	if len(open) == 0 {
		return nil
	}
	earlier, err := b.earlier(ctx, t, open)
	if err != nil {
		return fmt.Errorf("look up retries: %w", err)
	}
	revoked, err := revokedAmong(ctx, t, b.tenant, earlier)
	if err != nil {
		return fmt.Errorf("look up revocations of retries: %w", err)
	}
	var reopened []string
	for _, i := range open {
		in := b.items[i]
		was, ok := earlier[in.RequestID]
		if !ok {
			b.errs[i] = conflict(in.Serial, "serial %q is in use", in.Serial)
			continue
		}
		if b.errs[i] = b.refuseRetry(in, was.Intent, revoked[was.Serial]); b.errs[i] != nil {
			continue
		}
		b.out[i], b.done[i] = was.Intent, true
		if was.State == stateAbandoned {
			reopened = append(reopened, was.Serial)
		}
	}
	return setState(ctx, t, b.tenant, reopened, stateIntent)
}

// earlier gives what this node recorded under the request IDs of items.
func (b *intentBatch) earlier(ctx context.Context, t *tx, items []int) (map[string]store.Issuance, error) {
	var ids []string
	for _, i := range items {
		ids = append(ids, b.items[i].RequestID)
	}
	among, arg := anyOf(t.dialect, "request_id", 3, ids)
	found, err := list(ctx, t, scanIssuance, `SELECT tenant, node, state, `+issuanceColumns+` FROM issuances
		WHERE tenant = $1 AND node = $2 AND request_id <> '' AND `+among, b.tenant, b.node, arg)
	byRequest := make(map[string]store.Issuance, len(found))
	for _, is := range found {
		byRequest[is.RequestID] = is
	}
	return byRequest, err
}

// revokedAmong gives the serials of earlier issuances that are revoked: a node
// that was deleted and attested anew must not get them back.
func revokedAmong(ctx context.Context, t *tx, tenant string, earlier map[string]store.Issuance) (map[string]bool, error) {
	if len(earlier) == 0 {
		return nil, nil
	}
	var serials []string
	for _, was := range earlier {
		serials = append(serials, was.Serial)
	}
	among, arg := anyOf(t.dialect, "serial", 2, serials)
	found, err := list(ctx, t, scanText, `SELECT serial FROM revocations WHERE tenant = $1 AND `+among, tenant, arg)
	return setOf(found), err
}

// refuseRetry lets a request ID stand for one request only. Authority was
// checked anew, so a retry is never a way around a change of the entry.
func (b *intentBatch) refuseRetry(in, was store.Intent, revoked bool) error {
	same := in.Kind == was.Kind && in.EntryID == was.EntryID && in.EntryRevision == was.EntryRevision &&
		in.SPIFFEID == was.SPIFFEID && slices.Equal(in.SPKI, was.SPKI)
	if !same || revoked || !was.ExpiresAt.After(b.now) {
		return conflict(was.Serial, "request ID %q was used for another request; choose a new one", identity.Clip(in.RequestID))
	}
	return nil
}

const insertIntoIssuances = `INSERT INTO issuances (tenant, node, state, ` + issuanceColumns + `)
	`

// insertIssuances gives the serials of the rows that no unique constraint kept out.
func insertIssuances(ctx context.Context, t *tx, tenant, node string, rows []intentRow) (map[string]bool, error) {
	if len(rows) == 1 {
		return insertIssuance(ctx, t, tenant, node, rows[0])
	}
	text, err := toJSON(rows)
	if err != nil {
		return nil, err
	}
	from := t.dialect.Records(4, Column{"serial", "TEXT"}, Column{"kind", "TEXT"}, Column{"request_id", "TEXT"},
		Column{"entry_id", "TEXT"}, Column{"entry_revision", "BIGINT"}, Column{"spiffe_id", "TEXT"},
		Column{"evidence", "TEXT"}, Column{"spki", "TEXT"}, Column{"not_before", "BIGINT"}, Column{"expires_at", "BIGINT"})
	serials, err := list(ctx, t, scanText, insertIntoIssuances+`SELECT CAST($1 AS TEXT), CAST($2 AS TEXT), CAST($3 AS TEXT), r.serial, r.kind, r.request_id, r.entry_id, r.entry_revision,
			r.spiffe_id, r.evidence, r.spki, r.not_before, r.expires_at
		FROM `+from+` WHERE true ON CONFLICT DO NOTHING RETURNING serial`, tenant, node, stateIntent, text)
	if err != nil {
		return nil, err
	}
	return setOf(serials), nil
}

// insertIssuance is insertIssuances for one row, which needs no JSON.
func insertIssuance(ctx context.Context, t *tx, tenant, node string, r intentRow) (map[string]bool, error) {
	n, err := t.exec(ctx, insertIntoIssuances+`VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) ON CONFLICT DO NOTHING`,
		tenant, node, stateIntent, r.Serial, r.Kind, r.RequestID, r.EntryID, r.EntryRevision,
		r.SPIFFEID, r.Evidence, r.SPKI, r.NotBefore, r.ExpiresAt)
	return map[string]bool{r.Serial: n == 1}, err
}

// recordAgent records an agent's own SVID, which is about to be made.
func recordAgent(ctx context.Context, t *tx, n identity.Node, now time.Time) error {
	row := rowOf(store.Intent{Kind: identity.Agent, Serial: n.Serial, SPIFFEID: n.ID, Evidence: n.Method,
		SPKI: n.SPKI, NotBefore: now, ExpiresAt: n.ExpiresAt})
	written, err := insertIssuances(ctx, t, n.Tenant, n.ID.String(), []intentRow{row})
	if err != nil {
		return fmt.Errorf("record agent SVID: %w", err)
	}
	if !written[n.Serial] {
		return conflict(n.Serial, "serial %q is in use", n.Serial)
	}
	return nil
}

func setState(ctx context.Context, t *tx, tenant string, serials []string, state string) error {
	if len(serials) == 0 {
		return nil
	}
	among, arg := anyOf(t.dialect, "serial", 3, serials)
	_, err := t.exec(ctx, `UPDATE issuances SET state = $2 WHERE tenant = $1 AND `+among, tenant, state, arg)
	return err
}

// FinishIntents implements store.Issuances. Serials that are not there are passed over.
func (db *DB) FinishIntents(ctx context.Context, tenant string, serials []string, issued bool) error {
	state := stateAbandoned
	if issued {
		state = stateIssued
	}
	return db.write(ctx, "finish intents", Scope{Tenant: tenant}, func(ctx context.Context, t *tx) error {
		return setState(ctx, t, tenant, serials, state)
	})
}

// Issued implements store.Issuances.
func (db *DB) Issued(ctx context.Context, tenant, serial string) (store.Issuance, error) {
	return askOne(ctx, db, "issuance", serial, Scope{Tenant: tenant}, scanIssuance, `SELECT tenant, node, state, `+issuanceColumns+`
		FROM issuances WHERE tenant = $1 AND serial = $2`, tenant, serial)
}

// IssuanceCount implements store.Issuances.
func (db *DB) IssuanceCount(ctx context.Context, tenant string) (n int64, err error) {
	err = db.read(ctx, "count issuances", tenant, func(t *tx) error {
		return t.row(ctx, `SELECT COUNT(*) FROM issuances WHERE tenant = $1 AND state <> $2`, tenant, stateAbandoned).Scan(&n)
	})
	return n, err
}
