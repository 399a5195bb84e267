package sqlstore

import (
	"context"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/audit"
	"github.com/authsec-ai/icp/server/store"
)

const tokenColumns = `id, tenant, role, name, hash, expires_at, created_at`

func scanAPIToken(row Row) (k store.APIToken, err error) {
	var owner string
	var expires, created int64
	err = row.Scan(&k.ID, &owner, &k.Role, &k.Name, &k.Hash, &expires, &created)
	k.Tenant, k.ExpiresAt, k.CreatedAt = tenantOf(owner), fromMicro(expires), fromMicro(created)
	return k, err
}

// CreateAPIToken implements store.Access. Tokens make no revision: nobody keeps a copy.
func (db *DB) CreateAPIToken(ctx context.Context, k store.APIToken, ev audit.Event) error {
	if k.ID == "" || len(k.Hash) == 0 || k.Role == "" {
		return identity.Errorf(identity.Invalid, "an API token needs an ID, a hash and a role")
	}
	if (k.Role == store.PlatformAdmin) != (k.Tenant == "") {
		return identity.Errorf(identity.Invalid, "a token of role %s must name a tenant, and one of role %s must not",
			store.TenantAdmin, store.PlatformAdmin)
	}
	owner := ownerOf(k.Tenant)
	return db.mutate(ctx, "create API token", owner, func(ctx context.Context, t *tx) error {
		n, err := t.exec(ctx, `INSERT INTO api_tokens (`+tokenColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING`,
			k.ID, owner, string(k.Role), k.Name, k.Hash, toMicro(k.ExpiresAt), toMicro(k.CreatedAt))
		if err != nil {
			return err
		}
		if n == 0 {
			return conflict(k.ID, "API token %q exists already", k.ID)
		}
		t.leave(owner, ev)
		return nil
	})
}

// APITokenByHash implements store.Access.
func (db *DB) APITokenByHash(ctx context.Context, hash []byte) (store.APIToken, error) {
	return askOne(ctx, db, "API token with that hash", "", Scope{Across: true}, scanAPIToken,
		`SELECT `+tokenColumns+` FROM api_tokens WHERE hash = $1`, hash)
}

// APITokens implements store.Access. It gives a tenant's, oldest first; "" gives the platform's.
func (db *DB) APITokens(ctx context.Context, tenant string) (tokens []store.APIToken, err error) {
	owner := ownerOf(tenant)
	err = db.read(ctx, "list API tokens", owner, func(t *tx) error {
		tokens, err = list(ctx, t, scanAPIToken, `SELECT `+tokenColumns+` FROM api_tokens WHERE tenant = $1 ORDER BY created_at, id`, owner)
		return err
	})
	return tokens, err
}

// DeleteAPIToken implements store.Access.
func (db *DB) DeleteAPIToken(ctx context.Context, tenant, id string, ev audit.Event) error {
	owner := ownerOf(tenant)
	return db.mutate(ctx, "delete API token", owner, func(ctx context.Context, t *tx) error {
		n, err := t.exec(ctx, `DELETE FROM api_tokens WHERE tenant = $1 AND id = $2`, owner, id)
		if err != nil {
			return err
		}
		if n == 0 {
			return notFound("API token", id)
		}
		t.leave(owner, ev)
		return nil
	})
}
