package sqlstore

import (
	"context"
	"encoding/json"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/audit"
	"github.com/authsec-ai/icp/policy"
	"github.com/authsec-ai/icp/server/store"
)

// CreatePolicy implements store.Registry.
func (db *DB) CreatePolicy(ctx context.Context, tenant string, p policy.Policy, ev audit.Event) error {
	_, err := db.writePolicy(ctx, tenant, p, ev, false)
	return err
}

// PutPolicy implements store.Registry.
func (db *DB) PutPolicy(ctx context.Context, tenant string, p policy.Policy, ev audit.Event) (bool, error) {
	return db.writePolicy(ctx, tenant, p, ev, true)
}

func (db *DB) writePolicy(ctx context.Context, tenant string, p policy.Policy, ev audit.Event, replace bool) (bool, error) {
	if p.Name == "" {
		return false, identity.Errorf(identity.Invalid, "a policy needs a name")
	}
	body, err := toJSON(p)
	if err != nil {
		return false, err
	}
	var created bool
	err = db.mutate(ctx, "put policy", tenant, func(ctx context.Context, t *tx) error {
		n, err := t.exec(ctx, `INSERT INTO policies (tenant, name, body) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`, tenant, p.Name, body)
		if err != nil {
			return err
		}
		created = n == 1
		if !created && !replace {
			return conflict(p.Name, "a policy of that name exists; replace it with PUT or choose another name")
		}
		if !created {
			if _, err := t.exec(ctx, `UPDATE policies SET body = $3 WHERE tenant = $1 AND name = $2`, tenant, p.Name, body); err != nil {
				return err
			}
		}
		t.leave(tenant, ev, store.Change{Kind: store.ChangePolicy, Object: p.Name})
		return nil
	})
	return err == nil && created, err
}

// DeletePolicy implements store.Registry.
func (db *DB) DeletePolicy(ctx context.Context, tenant, name string, ev audit.Event) error {
	return db.mutate(ctx, "delete policy", tenant, func(ctx context.Context, t *tx) error {
		n, err := t.exec(ctx, `DELETE FROM policies WHERE tenant = $1 AND name = $2`, tenant, name)
		if err != nil {
			return err
		}
		if n == 0 {
			return notFound("policy", name)
		}
		t.leave(tenant, ev, store.Change{Kind: store.ChangePolicy, Object: name, Deleted: true})
		return nil
	})
}

// Policies implements store.Registry.
func (db *DB) Policies(ctx context.Context, tenant string) (set policy.Set, err error) {
	err = db.read(ctx, "read policies", tenant, func(t *tx) error {
		c, err := cursorOf(ctx, t, tenant)
		if err != nil {
			return err
		}
		set = policy.Set{Epoch: c.Epoch, Revision: c.Revision}
		set.Policies, err = list(ctx, t, scanPolicy, `SELECT body FROM policies WHERE tenant = $1 ORDER BY name`, tenant)
		return err
	})
	return set, err
}

func scanPolicy(row Row) (p policy.Policy, err error) {
	var body []byte
	if err := row.Scan(&body); err != nil {
		return p, err
	}
	return p, json.Unmarshal(body, &p)
}
