package sqlstore

import (
	"context"
	"crypto/sha256"
	"fmt"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/audit"
	"github.com/authsec-ai/icp/server/store"
)

// PutAuthority implements store.Issuances. Authorities are never replaced: the
// same ID or key is a Conflict.
func (db *DB) PutAuthority(ctx context.Context, a store.Authority, ev audit.Event) error {
	return db.mutate(ctx, "put authority", a.Tenant, func(ctx context.Context, t *tx) error {
		if err := insertAuthority(ctx, t, a); err != nil {
			return err
		}
		t.leave(a.Tenant, ev, store.Change{Kind: store.ChangeBundle, Object: a.ID})
		return nil
	})
}

// insertAuthority refuses a key that any tenant has: one key serves one trust
// domain. Whose key it is stays untold.
func insertAuthority(ctx context.Context, t *tx, a store.Authority) error {
	if a.ID == "" || a.TrustDomain == "" || a.Purpose == "" || len(a.SPKI) == 0 {
		return identity.Errorf(identity.Invalid, "an authority needs an ID, a trust domain, a purpose and a public key")
	}
	if err := claimTrustDomain(ctx, t, a.Tenant, a.TrustDomain); err != nil {
		return err
	}
	key := sha256.Sum256(a.SPKI)
	n, err := t.exec(ctx, `INSERT INTO authorities
		(tenant, id, trust_domain, purpose, certificate, spki, spki_sha256, wrapped_key, issuer, created_at, expires_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT DO NOTHING`,
		a.Tenant, a.ID, a.TrustDomain, string(a.Purpose), a.Certificate, a.SPKI, key[:], a.WrappedKey, a.Issuer,
		toMicro(a.CreatedAt), toMicro(a.ExpiresAt))
	if err != nil {
		return fmt.Errorf("insert authority: %w", err)
	}
	if n == 0 {
		return conflict(a.ID, "an authority with the ID or the key of %q exists already", a.ID)
	}
	return nil
}

// Authorities implements store.Issuances.
func (db *DB) Authorities(ctx context.Context, tenant string) ([]store.Authority, error) {
	return ask(ctx, db, "read authorities", Scope{Tenant: tenant}, scanAuthority, `SELECT tenant, id, trust_domain, purpose, certificate, spki, wrapped_key, issuer, created_at, expires_at
		FROM authorities WHERE tenant = $1 ORDER BY created_at DESC, id`, tenant)
}

func scanAuthority(row Row) (a store.Authority, err error) {
	var created, expires int64
	err = row.Scan(&a.Tenant, &a.ID, &a.TrustDomain, &a.Purpose, &a.Certificate, &a.SPKI, &a.WrappedKey, &a.Issuer, &created, &expires)
	a.CreatedAt, a.ExpiresAt = fromMicro(created), fromMicro(expires)
	return a, err
}
