package sqlstore

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/audit"
	"github.com/authsec-ai/icp/server/store"
)

// platform is the owner of what belongs to no tenant: the API tokens of
// platform administrators and the events about them. No tenant can have this ID.
const platform = "@platform"

const maxTenantBytes = 255

// ownerOf gives the value of the tenant column for a caller's tenant. Nobody
// reaches the platform's rows by naming them.
func ownerOf(tenant string) string {
	switch tenant {
	case "":
		return platform
	case platform:
		return ""
	}
	return tenant
}

// tenantOf is the reverse of ownerOf.
func tenantOf(owner string) string {
	if owner == platform {
		return ""
	}
	return owner
}

// CreateTenant implements store.Tenants.
func (db *DB) CreateTenant(ctx context.Context, tn store.Tenant, authorities []store.Authority, ev audit.Event) error {
	if tn.ID == "" || len(tn.ID) > maxTenantBytes || tn.ID == platform || tn.TrustDomain == "" {
		return identity.Errorf(identity.Invalid, "a tenant needs an ID of 1 to %d bytes and a trust domain", maxTenantBytes)
	}
	return db.mutate(ctx, "create tenant", tn.ID, func(ctx context.Context, t *tx) error {
		if err := insertTenant(ctx, t, tn); err != nil {
			return err
		}
		if err := claimTrustDomain(ctx, t, tn.ID, tn.TrustDomain); err != nil {
			return err
		}
		for _, a := range authorities {
			a.Tenant = tn.ID
			if err := insertAuthority(ctx, t, a); err != nil {
				return err
			}
		}
		t.leave(tn.ID, ev, store.Change{Kind: store.ChangeTenant, Object: tn.ID},
			store.Change{Kind: store.ChangeBundle, Object: tn.TrustDomain})
		return nil
	})
}

func insertTenant(ctx context.Context, t *tx, tn store.Tenant) error {
	settings, err := toJSON(tn.Settings)
	if err != nil {
		return err
	}
	n, err := t.exec(ctx, `INSERT INTO tenants (id, trust_domain, settings, created_at) VALUES ($1, $2, $3, $4)
		ON CONFLICT DO NOTHING`, tn.ID, tn.TrustDomain, settings, toMicro(tn.CreatedAt))
	if err != nil {
		return fmt.Errorf("insert tenant: %w", err)
	}
	if n == 0 {
		return conflict(tn.ID, "tenant %q exists already", tn.ID)
	}
	epoch := tn.Cursor.Epoch
	if epoch == "" {
		epoch = rand.Text()
	}
	_, err = t.exec(ctx, `INSERT INTO counters (tenant, epoch, revision, seq) VALUES ($1, $2, $3, 0)`,
		tn.ID, epoch, tn.Cursor.Revision)
	return err
}

// claimTrustDomain makes a trust domain the tenant's. One that another tenant
// has is a Conflict which does not say whose it is.
func claimTrustDomain(ctx context.Context, t *tx, tenant, td string) error {
	if _, err := t.exec(ctx, `INSERT INTO trust_domains (name, tenant) VALUES ($1, $2) ON CONFLICT DO NOTHING`, td, tenant); err != nil {
		return fmt.Errorf("claim trust domain: %w", err)
	}
	var mine int
	err := t.row(ctx, `SELECT COUNT(*) FROM trust_domains WHERE name = $1 AND tenant = $2`, td, tenant).Scan(&mine)
	if err == nil && mine == 0 {
		return conflict("", "trust domain %q is taken", identity.Clip(td))
	}
	return err
}

const selectTenants = `SELECT t.id, t.trust_domain, t.settings, t.created_at, c.epoch, c.revision
	FROM tenants t JOIN counters c ON c.tenant = t.id`

func scanTenant(row Row) (store.Tenant, error) {
	var tn store.Tenant
	var settings string
	var created int64
	err := row.Scan(&tn.ID, &tn.TrustDomain, &settings, &created, &tn.Cursor.Epoch, &tn.Cursor.Revision)
	if err != nil {
		return tn, err
	}
	tn.CreatedAt = fromMicro(created)
	return tn, json.Unmarshal([]byte(settings), &tn.Settings)
}

// Tenant implements store.Tenants.
func (db *DB) Tenant(ctx context.Context, id string) (store.Tenant, error) {
	return askOne(ctx, db, "tenant", id, Scope{Tenant: id}, scanTenant, selectTenants+` WHERE t.id = $1`, id)
}

// TenantByTrustDomain implements store.Tenants.
func (db *DB) TenantByTrustDomain(ctx context.Context, td string) (store.Tenant, error) {
	return askOne(ctx, db, "tenant with the trust domain", td, Scope{Across: true}, scanTenant,
		selectTenants+` WHERE t.id = (SELECT tenant FROM trust_domains WHERE name = $1)`, td)
}

// Tenants implements store.Tenants.
func (db *DB) Tenants(ctx context.Context) (tenants []store.Tenant, err error) {
	err = db.readAcross(ctx, "list tenants", func(t *tx) error {
		tenants, err = list(ctx, t, scanTenant, selectTenants+` ORDER BY t.id`)
		return err
	})
	return tenants, err
}

// UpdateSettings implements store.Tenants.
func (db *DB) UpdateSettings(ctx context.Context, tenant string, s store.Settings, ev audit.Event) error {
	settings, err := toJSON(s)
	if err != nil {
		return err
	}
	return db.mutate(ctx, "update settings", tenant, func(ctx context.Context, t *tx) error {
		n, err := t.exec(ctx, `UPDATE tenants SET settings = $2 WHERE id = $1`, tenant, settings)
		if err != nil {
			return err
		}
		if n == 0 {
			return notFound("tenant", tenant)
		}
		t.leave(tenant, ev, store.Change{Kind: store.ChangeTenant, Object: tenant})
		return nil
	})
}

// Changes implements store.Tenants. It never splits a revision, so the answer
// may be a few longer than limit.
func (db *DB) Changes(ctx context.Context, tenant string, after int64, limit int) (changes []store.Change, err error) {
	err = db.read(ctx, "list changes", tenant, func(t *tx) error {
		changes, err = list(ctx, t, scanChange, `SELECT revision, kind, object, parent, deleted FROM changes
			WHERE tenant = $1 AND revision > $2 AND revision <= COALESCE((SELECT revision FROM changes
				WHERE tenant = $1 AND revision > $2 ORDER BY revision, ord LIMIT 1 OFFSET $3), $4)
			ORDER BY revision, ord`, tenant, after, max(limit, 1)-1, int64(1<<62))
		return err
	})
	return changes, err
}

func scanChange(row Row) (c store.Change, err error) {
	err = row.Scan(&c.Revision, &c.Kind, &c.Object, &c.Parent, &c.Deleted)
	return c, err
}
