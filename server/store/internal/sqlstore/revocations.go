package sqlstore

import (
	"context"
	"fmt"
	"time"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/server/store"
)

// revoke lists what was issued for an entry (column entry_id) or through a node
// (column node) and has not expired. It counts intents and abandoned ones too:
// a signer that was slow or died may have released them. The caller has removed
// the right to new intents of that kind in this transaction, in a statement
// before.
func revoke(ctx context.Context, t *tx, tenant, column, value string, now time.Time) ([]store.Change, error) {
	n, err := t.exec(ctx, `INSERT INTO revocations (tenant, serial, kind, spiffe_id, expires_at)
		SELECT tenant, serial, kind, spiffe_id, expires_at FROM issuances
		WHERE tenant = $1 AND `+column+` = $2 AND expires_at > $3 ON CONFLICT DO NOTHING`, tenant, value, toMicro(now))
	if err != nil {
		return nil, fmt.Errorf("revoke: %w", err)
	}
	if n == 0 {
		return nil, nil
	}
	return []store.Change{{Kind: store.ChangeRevocation, Object: value}}, nil
}

// Revocations implements store.Issuances, ordered by serial.
func (db *DB) Revocations(ctx context.Context, tenant string, now time.Time) (all []identity.Revocation, err error) {
	err = db.read(ctx, "list revocations", tenant, func(t *tx) error {
		all, err = list(ctx, t, scanRevocation, `SELECT kind, serial, spiffe_id, expires_at FROM revocations
			WHERE tenant = $1 AND expires_at > $2 ORDER BY serial`, tenant, toMicro(now))
		return err
	})
	return all, err
}

func scanRevocation(row Row) (r identity.Revocation, err error) {
	var expires int64
	err = row.Scan(&r.Kind, &r.Serial, &r.SPIFFEID, &expires)
	r.ExpiresAt = fromMicro(expires)
	return r, err
}

// Revoked implements store.Issuances.
func (db *DB) Revoked(ctx context.Context, tenant, serial string) (revoked bool, err error) {
	err = db.read(ctx, "look up revocation", tenant, func(t *tx) error {
		return t.row(ctx, `SELECT EXISTS (SELECT 1 FROM revocations WHERE tenant = $1 AND serial = $2)`, tenant, serial).Scan(&revoked)
	})
	return revoked, err
}

const pruneStep = 5000 // rows in one transaction, so that others get their turn

// Prune implements store.Issuances.
func (db *DB) Prune(ctx context.Context, before time.Time) error {
	for _, what := range []struct{ table, key string }{
		{"issuances", "tenant, serial"}, {"revocations", "tenant, serial"}, {"join_tokens", "tenant, id"},
	} {
		for {
			n, err := db.pruneOnce(ctx, what.table, what.key, before)
			if err != nil {
				return err
			}
			if n < pruneStep {
				break
			}
		}
	}
	return nil
}

func (db *DB) pruneOnce(ctx context.Context, table, key string, before time.Time) (int64, error) {
	var n int64
	err := db.write(ctx, "prune "+table, Scope{Across: true}, func(ctx context.Context, t *tx) (err error) {
		n, err = t.exec(ctx, `DELETE FROM `+table+` WHERE (`+key+`) IN
			(SELECT `+key+` FROM `+table+` WHERE expires_at < $1 LIMIT $2)`, toMicro(before), pruneStep)
		return err
	})
	if err != nil {
		return 0, err
	}
	return n, nil
}
