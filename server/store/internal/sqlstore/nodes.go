package sqlstore

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/audit"
	"github.com/authsec-ai/icp/server/store"
)

const joinTokenColumns = `id, tenant, hash, node_name, expires_at, created_at`

func scanJoinToken(row Row) (k store.JoinToken, err error) {
	var expires, created int64
	err = row.Scan(&k.ID, &k.Tenant, &k.Hash, &k.NodeName, &expires, &created)
	k.ExpiresAt, k.CreatedAt = fromMicro(expires), fromMicro(created)
	return k, err
}

// CreateJoinToken implements store.Nodes. Tokens make no revision: nobody keeps a copy.
func (db *DB) CreateJoinToken(ctx context.Context, k store.JoinToken, ev audit.Event) error {
	if k.ID == "" || len(k.Hash) == 0 {
		return identity.Errorf(identity.Invalid, "a join token needs an ID and a hash")
	}
	return db.mutate(ctx, "create join token", k.Tenant, func(ctx context.Context, t *tx) error {
		n, err := t.exec(ctx, `INSERT INTO join_tokens (`+joinTokenColumns+`) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING`,
			k.ID, k.Tenant, k.Hash, k.NodeName, toMicro(k.ExpiresAt), toMicro(k.CreatedAt))
		if err != nil {
			return err
		}
		if n == 0 {
			return conflict(k.ID, "join token %q exists already", k.ID)
		}
		t.leave(k.Tenant, ev)
		return nil
	})
}

// JoinTokens implements store.Nodes. It lists unused tokens, expired ones too, oldest first.
func (db *DB) JoinTokens(ctx context.Context, tenant string) (tokens []store.JoinToken, err error) {
	err = db.read(ctx, "list join tokens", tenant, func(t *tx) error {
		tokens, err = list(ctx, t, scanJoinToken, `SELECT `+joinTokenColumns+` FROM join_tokens WHERE tenant = $1 ORDER BY created_at, id`, tenant)
		return err
	})
	return tokens, err
}

// DeleteJoinToken implements store.Nodes.
func (db *DB) DeleteJoinToken(ctx context.Context, tenant, id string, ev audit.Event) error {
	return db.mutate(ctx, "delete join token", tenant, func(ctx context.Context, t *tx) error {
		n, err := t.exec(ctx, `DELETE FROM join_tokens WHERE tenant = $1 AND id = $2`, tenant, id)
		if err != nil {
			return err
		}
		if n == 0 {
			return notFound("join token", id)
		}
		t.leave(tenant, ev)
		return nil
	})
}

// JoinTokenByHash implements store.Nodes.
func (db *DB) JoinTokenByHash(ctx context.Context, hash []byte) (k store.JoinToken, err error) {
	err = db.readAcross(ctx, "find join token", func(t *tx) error {
		k, err = scanJoinToken(t.row(ctx, `SELECT `+joinTokenColumns+` FROM join_tokens WHERE hash = $1`, hash))
		return absent(err, "join token with that hash", "")
	})
	return k, err
}

const nodeColumns = `id, tenant, method, spki, serial, selectors, banned, created_at, expires_at, last_seen`

func scanNode(row Row) (n identity.Node, err error) {
	var id string
	var selectors []byte
	var created, expires, seen int64
	if err = row.Scan(&id, &n.Tenant, &n.Method, &n.SPKI, &n.Serial, &selectors, &n.Banned, &created, &expires, &seen); err != nil {
		return n, err
	}
	n.CreatedAt, n.ExpiresAt, n.LastSeen = fromMicro(created), fromMicro(expires), fromMicro(seen)
	if n.ID, err = spiffeid.FromString(id); err != nil {
		return n, fmt.Errorf("read node %s: %w", id, err)
	}
	if len(selectors) > 0 {
		err = json.Unmarshal(selectors, &n.Selectors)
	}
	return n, err
}

// AttestNode implements store.Nodes. All of it is one transaction: a refusal
// at any step leaves the token unused.
func (db *DB) AttestNode(ctx context.Context, n identity.Node, tokenHash []byte, now time.Time, ev audit.Event) error {
	if err := checkNode(n); err != nil {
		return err
	}
	return db.mutate(ctx, "attest node", n.Tenant, func(ctx context.Context, t *tx) error {
		if tokenHash != nil {
			if err := useToken(ctx, t, n, tokenHash, now); err != nil {
				return err
			}
		}
		if err := putNode(ctx, t, n, now); err != nil {
			return err
		}
		if err := recordAgent(ctx, t, n, now); err != nil {
			return err
		}
		t.leave(n.Tenant, ev, store.Change{Kind: store.ChangeNode, Object: n.ID.String()})
		return nil
	})
}

func checkNode(n identity.Node) error {
	if n.ID.IsZero() || n.Serial == "" || len(n.SPKI) == 0 || n.ExpiresAt.IsZero() {
		return identity.Errorf(identity.Invalid, "a node needs an ID, a serial, a key and an expiry")
	}
	return nil
}

// useToken takes the token out of the table: the row can be deleted once.
func useToken(ctx context.Context, t *tx, n identity.Node, hash []byte, now time.Time) error {
	var name string
	err := t.row(ctx, `DELETE FROM join_tokens WHERE tenant = $1 AND hash = $2 AND expires_at > $3 RETURNING node_name`,
		n.Tenant, hash, toMicro(now)).Scan(&name)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return identity.Errorf(identity.Unauthenticated, "the join token is unknown, used or expired; ask for a new one")
	case err != nil:
		return fmt.Errorf("use join token: %w", err)
	case name != "" && identity.AgentPath(name) != n.ID.Path():
		return identity.Errorf(identity.Denied, "the join token is for another node name")
	}
	return nil
}

// putNode writes the node unless the ID is banned, or live under another key.
func putNode(ctx context.Context, t *tx, n identity.Node, now time.Time) error {
	selectors, err := nodeSelectors(n)
	if err != nil {
		return err
	}
	written, err := t.exec(ctx, `INSERT INTO nodes (`+nodeColumns+`)
		VALUES ($1, $2, $3, $4, $5, $6, false, $7, $8, $9)
		ON CONFLICT (tenant, id) DO UPDATE SET method = excluded.method, spki = excluded.spki, serial = excluded.serial, prev_serial = '',
			selectors = excluded.selectors, expires_at = excluded.expires_at, last_seen = excluded.last_seen
		WHERE NOT nodes.banned AND (nodes.spki = excluded.spki OR nodes.expires_at <= $10)`,
		n.ID.String(), n.Tenant, n.Method, n.SPKI, n.Serial, selectors, toMicro(n.CreatedAt), toMicro(n.ExpiresAt),
		toMicro(n.LastSeen), toMicro(now))
	if err != nil {
		return fmt.Errorf("write node: %w", err)
	}
	if written == 1 {
		return nil
	}
	old, err := nodeByID(ctx, t, n.Tenant, n.ID.String(), "")
	switch {
	case err != nil:
		return err
	case old.Banned:
		return errBanned(n)
	}
	return conflict(n.ID.String(), "node %s is live under another key; delete it first, or wait until its SVID has expired", n.ID)
}

// nodeSelectors gives a node's selectors as JSON, "" for none.
func nodeSelectors(n identity.Node) (string, error) {
	if len(n.Selectors) == 0 {
		return "", nil
	}
	return toJSON(identity.NewSelectors(n.Selectors...))
}

func errBanned(n identity.Node) error {
	return identity.Errorf(identity.Denied, "node %s is banned", n.ID)
}

const selectNode = `SELECT ` + nodeColumns + ` FROM nodes WHERE tenant = $1 AND id = $2`

func nodeByID(ctx context.Context, t *tx, tenant, id, lock string) (identity.Node, error) {
	n, err := scanNode(t.row(ctx, selectNode+lock, tenant, id))
	return n, absent(err, "node", id)
}

// RenewNode implements store.Nodes.
func (db *DB) RenewNode(ctx context.Context, n identity.Node, oldSerial string, now time.Time, ev audit.Event) error {
	if err := checkNode(n); err != nil {
		return err
	}
	return db.mutate(ctx, "renew node", n.Tenant, func(ctx context.Context, t *tx) error {
		old, err := nodeByID(ctx, t, n.Tenant, n.ID.String(), t.dialect.Lock(Exclusive))
		switch {
		case err != nil:
			return err
		case old.Banned:
			return errBanned(n)
		}
		renewed, err := t.exec(ctx, `UPDATE nodes SET serial = $3, prev_serial = $4, spki = $5, expires_at = $6, last_seen = $7
			WHERE tenant = $1 AND id = $2 AND (serial = $4 OR prev_serial = $4)`,
			n.Tenant, n.ID.String(), n.Serial, oldSerial, n.SPKI, toMicro(n.ExpiresAt), toMicro(now))
		if err != nil {
			return err
		}
		if renewed == 0 {
			return conflict(n.ID.String(), "node %s has another current SVID; two agents may hold its key", n.ID)
		}
		if err := recordAgent(ctx, t, n, now); err != nil {
			return err
		}
		t.leave(n.Tenant, ev, store.Change{Kind: store.ChangeNode, Object: n.ID.String()})
		return nil
	})
}

// Node implements store.Nodes.
func (db *DB) Node(ctx context.Context, tenant, id string) (identity.Node, error) {
	return askOne(ctx, db, "node", id, Scope{Tenant: tenant}, scanNode, selectNode, tenant, id)
}

// Nodes implements store.Nodes, ordered by ID.
func (db *DB) Nodes(ctx context.Context, tenant string) (nodes []identity.Node, err error) {
	err = db.read(ctx, "list nodes", tenant, func(t *tx) error {
		nodes, err = list(ctx, t, scanNode, `SELECT `+nodeColumns+` FROM nodes WHERE tenant = $1 ORDER BY id`, tenant)
		return err
	})
	return nodes, err
}

// TouchNode implements store.Nodes.
func (db *DB) TouchNode(ctx context.Context, tenant, id, serial string, now time.Time) error {
	return db.write(ctx, "touch node", Scope{Tenant: tenant}, func(ctx context.Context, t *tx) error {
		n, err := t.exec(ctx, `UPDATE nodes SET last_seen = $4, prev_serial = CASE WHEN serial = $3 THEN '' ELSE prev_serial END
			WHERE tenant = $1 AND id = $2`, tenant, id, serial, toMicro(now))
		if err == nil && n == 0 {
			return notFound("node", id)
		}
		return err
	})
}

// BanNode implements store.Nodes. Banning a banned node is no error.
func (db *DB) BanNode(ctx context.Context, tenant, id string, now time.Time, ev audit.Event) error {
	return db.mutate(ctx, "ban node", tenant, func(ctx context.Context, t *tx) error {
		return removeNode(ctx, t, tenant, id, now, ev, false, `UPDATE nodes SET banned = true WHERE tenant = $1 AND id = $2`)
	})
}

// DeleteNode implements store.Nodes.
func (db *DB) DeleteNode(ctx context.Context, tenant, id string, now time.Time, ev audit.Event) error {
	return db.mutate(ctx, "delete node", tenant, func(ctx context.Context, t *tx) error {
		return removeNode(ctx, t, tenant, id, now, ev, true, `DELETE FROM nodes WHERE tenant = $1 AND id = $2`)
	})
}

// removeNode runs the statement that takes the node's rights and revokes what
// was issued through it. The statement waits for intents in flight, and none
// can begin after it.
func removeNode(ctx context.Context, t *tx, tenant, id string, now time.Time, ev audit.Event, deleted bool, statement string) error {
	n, err := t.exec(ctx, statement, tenant, id)
	if err != nil {
		return err
	}
	if n == 0 {
		return notFound("node", id)
	}
	revoked, err := revoke(ctx, t, tenant, "node", id, now)
	if err != nil {
		return err
	}
	change := store.Change{Kind: store.ChangeNode, Object: id, Deleted: deleted}
	t.leave(tenant, ev, append([]store.Change{change}, revoked...)...)
	return nil
}
