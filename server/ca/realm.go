package ca

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/audit"
	"github.com/authsec-ai/icp/server/store"
)

// viewAge is how old a view may be: the time after which a tenant's new
// settings, or an authority that another replica made, count here.
const viewAge = time.Second

// realm is what the CA holds of one tenant.
type realm struct {
	turn chan struct{} // has room for the one goroutine that loads or makes authorities
	view atomic.Pointer[view]
}

// view is one tenant as the store had it at a moment. It is never changed once
// it is published.
type view struct {
	read        time.Time
	tenant      store.Tenant
	domain      spiffeid.TrustDomain
	authorities []store.Authority     // not expired, newest first
	signers     map[string]*authority // unwrapped so far, by id
	stuck       bool                  // replacing an authority failed on this view; the next one tries again
	nodeAnchors func() (*x509bundle.Bundle, error)
}

func (c *CA) realm(tenant string) *realm {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.realms[tenant]
	if r == nil {
		r = &realm{turn: make(chan struct{}, 1)}
		c.realms[tenant] = r
	}
	return r
}

func (c *CA) dropRealm(tenant string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.realms, tenant)
}

// fresh gives the published view if it is young enough.
func (r *realm) fresh(now time.Time) *view {
	v := r.view.Load()
	if v == nil || now.Sub(v.read).Abs() >= viewAge {
		return nil
	}
	return v
}

// take waits for the turn to load; the answer gives it back.
func (r *realm) take(ctx context.Context) (release func(), err error) {
	select {
	case r.turn <- struct{}{}:
		return func() { <-r.turn }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// look gives a view of the tenant that is at most viewAge old.
func (c *CA) look(ctx context.Context, tenant string) (*view, error) {
	r := c.realm(tenant)
	if v := r.fresh(c.now()); v != nil {
		return v, nil
	}
	release, err := r.take(ctx)
	if err != nil {
		return nil, unavailable("load the tenant", err)
	}
	defer release()
	if v := r.fresh(c.now()); v != nil {
		return v, nil
	}
	return c.load(ctx, tenant, r)
}

// load reads the tenant from the store and publishes the view, with the signers
// that are still of use. The caller has the turn.
func (c *CA) load(ctx context.Context, tenant string, r *realm) (*view, error) {
	v, err := c.read(ctx, tenant)
	if identity.CodeOf(err) == identity.NotFound {
		c.dropRealm(tenant)
	}
	if err != nil {
		return nil, unavailable("load the tenant", err)
	}
	if old := r.view.Load(); old != nil {
		for _, row := range v.authorities {
			if s := old.signers[row.ID]; s != nil {
				v.signers[row.ID] = s
			}
		}
	}
	r.view.Store(v)
	return v, nil
}

func (c *CA) read(ctx context.Context, tenant string) (*view, error) {
	now := c.now()
	t, err := c.store.Tenant(ctx, tenant)
	if err != nil {
		return nil, err
	}
	domain, err := identity.ParseTrustDomain(t.TrustDomain)
	if err != nil {
		return nil, err
	}
	rows, err := c.store.Authorities(ctx, tenant)
	if err != nil {
		return nil, err
	}
	rows = slices.DeleteFunc(rows, func(a store.Authority) bool { return !now.Before(a.ExpiresAt) })
	return &view{read: now, tenant: t, domain: domain, authorities: rows, signers: map[string]*authority{},
		nodeAnchors: sync.OnceValues(func() (*x509bundle.Bundle, error) { return nodeAnchors(domain, rows) })}, nil
}

// isAuthorityKey reports whether the SHA-256 of a public key is that of one of
// the tenant's authorities.
func (v *view) isAuthorityKey(spki []byte) bool {
	return slices.ContainsFunc(v.authorities, func(a store.Authority) bool {
		digest := sha256.Sum256(a.SPKI)
		return bytes.Equal(digest[:], spki)
	})
}

// pick chooses the authority of purpose p for a signature that must hold until
// then: the newest that has been published for long enough, else the oldest.
func (v *view) pick(p store.Purpose, now, until time.Time) (row store.Authority, ok bool) {
	for _, a := range v.authorities {
		if a.Purpose != p || a.ExpiresAt.Before(until) {
			continue
		}
		row, ok = a, true
		if p != store.JWTKey || !now.Before(a.CreatedAt.Add(jwtKeyPublish)) {
			return row, ok
		}
	}
	return row, ok
}

// due reports whether authorities of purpose p need a successor.
func (v *view) due(p store.Purpose, now time.Time) bool {
	lead := max(issuerLead, v.maxTTL())
	if p == store.JWTKey {
		lead = jwtKeyLead
	}
	horizon := now.Add(lead)
	return !slices.ContainsFunc(v.authorities, func(a store.Authority) bool {
		return a.Purpose == p && a.ExpiresAt.After(horizon)
	})
}

// signer gives the authority of purpose p that signs what holds until then,
// with its key. It first replaces one that is close to its end.
func (c *CA) signer(ctx context.Context, v *view, p store.Purpose, until time.Time) (*authority, error) {
	now := c.now()
	row, ok := v.pick(p, now, until)
	if s := v.signers[row.ID]; ok && s != nil && (v.stuck || !v.due(p, now)) {
		return s, nil
	}
	r := c.realm(v.tenant.ID)
	release, err := r.take(ctx)
	if err != nil {
		return nil, unavailable("prepare a signing key", err)
	}
	defer release()
	s, err := c.prepare(ctx, v.tenant.ID, r, p, until)
	if err != nil {
		c.log.ErrorContext(ctx, "signing key is not available", "tenant", v.tenant.ID, "purpose", p, "error", err)
		return nil, unavailable("prepare a signing key", err)
	}
	return s, nil
}

// prepare loads the tenant anew (another goroutine or replica may have done the
// work), replaces what is due, unwraps the key and publishes it. The caller has
// the turn.
func (c *CA) prepare(ctx context.Context, tenant string, r *realm, p store.Purpose, until time.Time) (*authority, error) {
	v, err := c.load(ctx, tenant, r)
	if err != nil {
		return nil, err
	}
	var renewErr error
	if v.due(p, c.now()) {
		v, renewErr = c.renew(ctx, r, v, p)
	}
	row, ok := v.pick(p, c.now(), until)
	if !ok {
		return nil, errors.Join(errNoAuthority, renewErr)
	}
	if s := v.signers[row.ID]; s != nil {
		return s, nil
	}
	s, err := c.open(ctx, v, row)
	if err != nil {
		return nil, err
	}
	next := *v
	next.signers = maps.Clone(v.signers)
	next.signers[row.ID] = s
	r.view.Store(&next)
	return s, nil
}

// renew makes a successor for the authorities of purpose p. If it cannot, the
// answer is a view that says so, and the authorities at hand serve on.
func (c *CA) renew(ctx context.Context, r *realm, v *view, p store.Purpose) (*view, error) {
	err := c.succeed(ctx, v, p)
	if err == nil {
		var next *view
		if next, err = c.load(ctx, v.tenant.ID, r); err == nil {
			return next, nil
		}
	}
	c.log.WarnContext(ctx, "an authority could not be replaced in time", "tenant", v.tenant.ID, "purpose", p, "error", err)
	next := *v
	next.stuck = true
	r.view.Store(&next)
	return &next, err
}

// succeed makes and stores a new authority of purpose p. An anchor's key is in
// memory only while this runs.
func (c *CA) succeed(ctx context.Context, v *view, p store.Purpose) error {
	var parent *authority
	if pp := parentOf(p); pp != "" {
		now := c.now()
		row, ok := v.pick(pp, now, now.Add(lifeOf(p)))
		if !ok {
			return fmt.Errorf("make a %s: %w", p, errNoAuthority)
		}
		var err error
		if parent, err = c.open(ctx, v, row); err != nil {
			return err
		}
		defer forget(parent.key)
	}
	a, err := c.makeAuthority(ctx, v.tenant.ID, v.domain, p, parent)
	if err != nil {
		return err
	}
	forget(a.key)
	return c.store.PutAuthority(ctx, a.row, audit.Event{
		Time:    c.now(),
		Tenant:  v.tenant.ID,
		Actor:   "system",
		Action:  "authority.create",
		Object:  string(p) + " " + a.row.ID,
		Outcome: audit.Allowed,
	})
}
