// Package registry holds the rules for what an administrator may write:
// tenants, entries, policies, join tokens and API tokens. It checks, gives each
// change its audit event, and hands both to the store, which writes them in one
// transaction.
//
// Every method names the tenant it works in; nothing here reads another's.
package registry

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"time"

	"github.com/authsec-ai/icp/internal/audit"
	"github.com/authsec-ai/icp/server/store"
)

// Store is what the registry keeps its data in.
type Store interface {
	store.Tenants
	store.Registry
	store.Nodes
	store.Access
}

// TenantMaker creates a tenant together with its signing authorities.
type TenantMaker interface {
	CreateTenant(ctx context.Context, t store.Tenant, ev audit.Event) error
}

// Config holds what a Registry works with; all of it is required.
type Config struct {
	Store  Store
	CA     TenantMaker
	Now    func() time.Time
	Random io.Reader
}

// Registry checks and writes.
type Registry struct {
	store  Store
	ca     TenantMaker
	now    func() time.Time
	random io.Reader
}

// New refuses an incomplete Config.
func New(cfg Config) (*Registry, error) {
	if cfg.Store == nil || cfg.CA == nil || cfg.Now == nil || cfg.Random == nil {
		return nil, errors.New("registry: Store, CA, Now and Random are all required")
	}
	return &Registry{store: cfg.Store, ca: cfg.CA, now: cfg.Now, random: cfg.Random}, nil
}

// Caller is who asked for a change, for the audit trail.
type Caller struct {
	Actor     string // "token:<id>", a SPIFFE ID, "system"
	RequestID string
}

// System is the caller of changes that the program itself makes.
func System() Caller { return Caller{Actor: "system"} }

// event describes an allowed change; before and after may be nil.
func (r *Registry) event(by Caller, tenant, action, object string, before, after any) audit.Event {
	return audit.Event{
		Time: r.now().UTC(), Tenant: tenant, Actor: by.Actor, Action: action, Object: object,
		Outcome: audit.Allowed, RequestID: by.RequestID, Before: document(before), After: document(after),
	}
}

// document renders what an event shows of an object. The types that come here
// all encode, so an error can only drop the picture and never the event.
func document(v any) json.RawMessage {
	if v == nil {
		return nil
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return nil
	}
	return raw
}
