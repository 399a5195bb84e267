package sqlstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/audit"
	"github.com/authsec-ai/icp/server/store"
)

const (
	maxEntryIDBytes = 128
	defaultPage     = 100
	maxPage         = 1000
)

// fingerprint stands for what makes an entry unique in its tenant: SPIFFE ID,
// parent and selectors. It has a fixed size; the three together would be too
// long for an index.
func fingerprint(s identity.Spec) []byte {
	h := sha256.New()
	write := func(text string) {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(text))))
		h.Write([]byte(text))
	}
	write(s.SPIFFEID.String())
	write(s.ParentID.String())
	for _, sel := range s.Selectors {
		write(sel.String())
	}
	return h.Sum(nil)
}

// normalized gives a set that JSON writes as a list, never as null.
func normalized(s identity.Selectors) identity.Selectors {
	return append(identity.Selectors{}, identity.NewSelectors(s...)...)
}

const entryColumns = `id, tenant, revision, created_at, spec`

func scanEntry(row Row) (identity.Entry, error) {
	var e identity.Entry
	var created int64
	var spec []byte
	if err := row.Scan(&e.ID, &e.Tenant, &e.Revision, &created, &spec); err != nil {
		return e, err
	}
	e.CreatedAt = fromMicro(created)
	if err := json.Unmarshal(spec, &e.Spec); err != nil {
		return e, fmt.Errorf("read entry %s: %w", e.ID, err)
	}
	return e, nil
}

// CreateEntry implements store.Registry.
func (db *DB) CreateEntry(ctx context.Context, e identity.Entry, ev audit.Event) (identity.Entry, error) {
	if e.ID == "" || len(e.ID) > maxEntryIDBytes || e.SPIFFEID.IsZero() {
		return e, identity.Errorf(identity.Invalid, "an entry needs an ID of 1 to %d bytes and a SPIFFE ID", maxEntryIDBytes)
	}
	e.Selectors = normalized(e.Selectors)
	e.CreatedAt = fromMicro(toMicro(e.CreatedAt))
	var left *record
	err := db.mutate(ctx, "create entry", e.Tenant, func(ctx context.Context, t *tx) error {
		if err := insertEntry(ctx, t, e); err != nil {
			return err
		}
		left = t.leave(e.Tenant, ev, store.Change{Kind: store.ChangeEntry, Object: e.ID, Parent: e.ParentID.String()})
		left.entry = e.ID
		return nil
	})
	if err != nil {
		return identity.Entry{}, err
	}
	e.Revision = left.cursor.Revision
	return e, nil
}

func insertEntry(ctx context.Context, t *tx, e identity.Entry) error {
	spec, err := toJSON(e.Spec)
	if err != nil {
		return err
	}
	n, err := t.exec(ctx, `INSERT INTO entries (tenant, id, spiffe_id, parent_id, fingerprint, spec, revision, created_at)
		VALUES ($1, $2, $3, $4, $5, $6, 0, $7) ON CONFLICT DO NOTHING`,
		e.Tenant, e.ID, e.SPIFFEID.String(), e.ParentID.String(), fingerprint(e.Spec), spec, toMicro(e.CreatedAt))
	if err != nil {
		return fmt.Errorf("insert entry: %w", err)
	}
	if n == 0 {
		return entryInTheWay(ctx, t, e)
	}
	return insertSelectors(ctx, t, e)
}

func entryInTheWay(ctx context.Context, t *tx, e identity.Entry) error {
	var id string
	err := t.row(ctx, `SELECT id FROM entries WHERE tenant = $1 AND (id = $2 OR fingerprint = $3) ORDER BY id LIMIT 1`,
		e.Tenant, e.ID, fingerprint(e.Spec)).Scan(&id)
	if err != nil {
		return absent(err, "tenant", e.Tenant)
	}
	return conflict(id, "entry %q has the same SPIFFE ID, parent and selectors", id)
}

func insertSelectors(ctx context.Context, t *tx, e identity.Entry) error {
	if len(e.Selectors) == 0 {
		return nil
	}
	type row struct {
		Selector string `json:"selector"`
	}
	rows := make([]row, len(e.Selectors))
	for i, s := range e.Selectors {
		rows[i].Selector = s.String()
	}
	text, err := toJSON(rows)
	if err != nil {
		return err
	}
	_, err = t.exec(ctx, `INSERT INTO entry_selectors (tenant, entry, selector)
		SELECT CAST($1 AS TEXT), CAST($2 AS TEXT), r.selector FROM `+
		t.dialect.Records(3, Column{"selector", "TEXT"})+` WHERE true`, e.Tenant, e.ID, text)
	return err
}

// lockEntry reads an entry and keeps others from changing it until commit.
func lockEntry(ctx context.Context, t *tx, tenant, id string) (identity.Entry, error) {
	e, err := scanEntry(t.row(ctx, `SELECT `+entryColumns+` FROM entries WHERE tenant = $1 AND id = $2`+
		t.dialect.Lock(Exclusive), tenant, id))
	return e, absent(err, "entry", id)
}

// UpdateEntry implements store.Registry.
func (db *DB) UpdateEntry(ctx context.Context, e identity.Entry, ifRevision int64, now time.Time, ev audit.Event) (identity.Entry, error) {
	if e.SPIFFEID.IsZero() {
		return e, identity.Errorf(identity.Invalid, "an entry needs a SPIFFE ID")
	}
	e.Selectors = normalized(e.Selectors)
	var left *record
	err := db.mutate(ctx, "update entry", e.Tenant, func(ctx context.Context, t *tx) error {
		old, err := lockEntry(ctx, t, e.Tenant, e.ID)
		if err != nil {
			return err
		}
		if ifRevision != 0 && ifRevision != old.Revision {
			return conflict(e.ID, "entry %q is no longer at revision %d; read it again", e.ID, ifRevision)
		}
		if err := replaceSpec(ctx, t, e); err != nil {
			return err
		}
		e.CreatedAt = old.CreatedAt
		changes := moveChanges(old, e)
		if !e.Covers(old.Spec) {
			revoked, err := revoke(ctx, t, e.Tenant, "entry_id", e.ID, now)
			if err != nil {
				return err
			}
			changes = append(changes, revoked...)
		}
		left = t.leave(e.Tenant, ev, changes...)
		left.entry = e.ID
		return nil
	})
	if err != nil {
		return identity.Entry{}, err
	}
	e.Revision = left.cursor.Revision
	return e, nil
}

// moveChanges tells the old parent that the entry is gone and the new one that it came.
func moveChanges(old, e identity.Entry) []store.Change {
	now := store.Change{Kind: store.ChangeEntry, Object: e.ID, Parent: e.ParentID.String()}
	if old.ParentID == e.ParentID {
		return []store.Change{now}
	}
	gone := store.Change{Kind: store.ChangeEntry, Object: e.ID, Parent: old.ParentID.String(), Deleted: true}
	return []store.Change{gone, now}
}

// replaceSpec writes the new Spec. The row has no revision until finish gives
// it one, so that nothing later in the same transaction takes it for the old one.
func replaceSpec(ctx context.Context, t *tx, e identity.Entry) error {
	spec, err := toJSON(e.Spec)
	if err != nil {
		return err
	}
	twins, err := list(ctx, t, scanText, `SELECT id FROM entries WHERE tenant = $1 AND fingerprint = $2 AND id <> $3`, e.Tenant, fingerprint(e.Spec), e.ID)
	if err != nil {
		return err
	}
	if len(twins) > 0 {
		return conflict(twins[0], "entry %q has the same SPIFFE ID, parent and selectors", twins[0])
	}
	if _, err := t.exec(ctx, `UPDATE entries SET spiffe_id = $3, parent_id = $4, fingerprint = $5, spec = $6, revision = 0
		WHERE tenant = $1 AND id = $2`, e.Tenant, e.ID, e.SPIFFEID.String(), e.ParentID.String(), fingerprint(e.Spec), spec); err != nil {
		return err
	}
	if _, err := t.exec(ctx, `DELETE FROM entry_selectors WHERE tenant = $1 AND entry = $2`, e.Tenant, e.ID); err != nil {
		return err
	}
	return insertSelectors(ctx, t, e)
}

// DeleteEntry implements store.Registry.
func (db *DB) DeleteEntry(ctx context.Context, tenant, id string, now time.Time, ev audit.Event) error {
	return db.mutate(ctx, "delete entry", tenant, func(ctx context.Context, t *tx) error {
		old, err := lockEntry(ctx, t, tenant, id)
		if err != nil {
			return err
		}
		// From here on no intent for the entry can begin, and those before are visible.
		if _, err := t.exec(ctx, `DELETE FROM entries WHERE tenant = $1 AND id = $2`, tenant, id); err != nil {
			return err
		}
		changes := []store.Change{{Kind: store.ChangeEntry, Object: id, Parent: old.ParentID.String(), Deleted: true}}
		revoked, err := revoke(ctx, t, tenant, "entry_id", id, now)
		if err != nil {
			return err
		}
		t.leave(tenant, ev, append(changes, revoked...)...)
		return nil
	})
}

// Entry implements store.Registry.
func (db *DB) Entry(ctx context.Context, tenant, id string) (identity.Entry, error) {
	return askOne(ctx, db, "entry", id, Scope{Tenant: tenant}, scanEntry,
		`SELECT `+entryColumns+` FROM entries WHERE tenant = $1 AND id = $2`, tenant, id)
}

// EntriesByID implements store.Registry.
func (db *DB) EntriesByID(ctx context.Context, tenant string, ids []string) ([]identity.Entry, error) {
	among, arg := anyOf(db.cfg.Dialect, "id", 2, ids)
	return ask(ctx, db, "read entries", Scope{Tenant: tenant}, scanEntry,
		`SELECT `+entryColumns+` FROM entries WHERE tenant = $1 AND `+among, tenant, arg)
}

// EntriesByParent implements store.Registry.
func (db *DB) EntriesByParent(ctx context.Context, tenant, parent string) (entries []identity.Entry, c store.Cursor, err error) {
	err = db.read(ctx, "read entries of parent", tenant, func(t *tx) error {
		if c, err = cursorOf(ctx, t, tenant); err != nil {
			return err
		}
		entries, err = list(ctx, t, scanEntry, `SELECT `+entryColumns+` FROM entries WHERE tenant = $1 AND parent_id = $2
			ORDER BY created_at, id`, tenant, parent)
		return err
	})
	return entries, c, err
}

// cursorOf gives the cursor of the transaction's snapshot.
func cursorOf(ctx context.Context, t *tx, tenant string) (c store.Cursor, err error) {
	err = t.row(ctx, `SELECT epoch, revision FROM counters WHERE tenant = $1`, tenant).Scan(&c.Epoch, &c.Revision)
	return c, absent(err, "tenant", tenant)
}

// Entries implements store.Registry.
func (db *DB) Entries(ctx context.Context, tenant string, f store.EntryFilter) ([]identity.Entry, string, error) {
	limit := f.Limit
	if limit == 0 {
		limit = defaultPage
	}
	if limit < 0 || limit > maxPage {
		return nil, "", identity.Errorf(identity.Invalid, "limit %d is not between 1 and %d", limit, maxPage)
	}
	var entries []identity.Entry
	where, args, err := db.entryConditions(tenant, f)
	if err != nil {
		return nil, "", err
	}
	err = db.read(ctx, "list entries", tenant, func(t *tx) error {
		args = append(args, limit+1)
		entries, err = list(ctx, t, scanEntry, fmt.Sprintf(`SELECT %s FROM entries WHERE %s ORDER BY created_at, id LIMIT $%d`,
			entryColumns, where, len(args)), args...)
		return err
	})
	if err != nil || len(entries) <= limit {
		return entries, "", err
	}
	entries = entries[:limit]
	return entries, pageAfter(entries[limit-1]), nil
}

// entryConditions turns a filter into SQL; what the caller wrote becomes
// arguments, never text of the statement.
func (db *DB) entryConditions(tenant string, f store.EntryFilter) (string, []any, error) {
	where, args := []string{"tenant = $1"}, []any{tenant}
	add := func(condition string, arg any) {
		args = append(args, arg)
		where = append(where, fmt.Sprintf(condition, len(args)))
	}
	if f.SPIFFEID != "" {
		add("spiffe_id = $%d", f.SPIFFEID)
	}
	if f.ParentID != "" {
		add("parent_id = $%d", f.ParentID)
	}
	if f.Selector != "" {
		add("id IN (SELECT entry FROM entry_selectors WHERE tenant = $1 AND selector = $%d)", f.Selector)
	}
	if f.Search != "" {
		args = append(args, f.Search)
		where = append(where, db.cfg.Dialect.Contains("spiffe_id", len(args)))
	}
	if f.After != "" {
		created, id, err := parsePage(tenant, f.After)
		if err != nil {
			return "", nil, err
		}
		args = append(args, created, id)
		where = append(where, fmt.Sprintf("(created_at, id) > ($%d, $%d)", len(args)-1, len(args)))
	}
	return strings.Join(where, " AND "), args, nil
}

// A page token is a place in the order (created_at, ID), and a check that tells
// tokens of this tenant from all other text. It grants nothing, so it is not secret.
const placeBytes, checkBytes = 8, 8

func placeCheck(tenant string, place []byte) []byte {
	sum := sha256.Sum256(append([]byte("entries\x00"+tenant+"\x00"), place...))
	return sum[:checkBytes]
}

// pageAfter gives the token of the page that follows e.
func pageAfter(e identity.Entry) string {
	place := binary.BigEndian.AppendUint64(nil, uint64(toMicro(e.CreatedAt)))
	place = append(place, e.ID...)
	return base64.RawURLEncoding.EncodeToString(append(placeCheck(e.Tenant, place), place...))
}

func parsePage(tenant, token string) (created int64, id string, err error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(raw) <= checkBytes+placeBytes || !bytes.Equal(raw[:checkBytes], placeCheck(tenant, raw[checkBytes:])) {
		return 0, "", identity.Errorf(identity.Invalid, "the page token is not one of ours; start from the first page")
	}
	place := raw[checkBytes:]
	return int64(binary.BigEndian.Uint64(place)), string(place[placeBytes:]), nil
}
