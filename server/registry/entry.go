package registry

import (
	"context"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/server/secret"
	"github.com/authsec-ai/icp/server/store"
)

// Limits of an entry.
const (
	MinTTL       = 5 * time.Second // shortest credential that can be rotated in time
	DefaultTTL   = time.Hour       // of a tenant that sets none; also its MaxTTL
	MaxHintBytes = 1024            // WLAPI-16
	MaxList      = 64              // selectors, DNS names or services in one entry
	minRenewAt   = 0.1
	maxRenewAt   = 0.95
)

// ProfileAIAgent is the profile of short-lived identities (10 minutes).
const ProfileAIAgent = "ai-agent"

// CreateEntry checks spec and stores it as a new entry of the tenant.
func (r *Registry) CreateEntry(ctx context.Context, by Caller, tenant string, spec identity.Spec) (identity.Entry, error) {
	t, err := r.store.Tenant(ctx, tenant)
	if err != nil {
		return identity.Entry{}, err
	}
	if err := checkSpec(t, spec); err != nil {
		return identity.Entry{}, err
	}
	id, err := secret.NewID(r.random, "")
	if err != nil {
		return identity.Entry{}, err
	}
	e := identity.Entry{ID: id, Tenant: tenant, CreatedAt: r.now().UTC(), Spec: spec}
	return r.store.CreateEntry(ctx, e, r.event(by, tenant, "entry.create", id, nil, spec))
}

// UpdateEntry replaces an entry's Spec. With ifRevision not 0 the entry must
// still be at that revision, else it is a Conflict. It revokes what was issued
// for the entry if the new Spec withdraws anything that the old one granted.
func (r *Registry) UpdateEntry(ctx context.Context, by Caller, tenant, id string, ifRevision int64, spec identity.Spec) (identity.Entry, error) {
	t, err := r.store.Tenant(ctx, tenant)
	if err != nil {
		return identity.Entry{}, err
	}
	if err := checkSpec(t, spec); err != nil {
		return identity.Entry{}, err
	}
	old, err := r.store.Entry(ctx, tenant, id)
	if err != nil {
		return identity.Entry{}, err
	}
	e := old
	e.Spec = spec
	return r.store.UpdateEntry(ctx, e, ifRevision, r.now(), r.event(by, tenant, "entry.update", id, old.Spec, spec))
}

// DeleteEntry removes an entry and revokes what was issued for it.
func (r *Registry) DeleteEntry(ctx context.Context, by Caller, tenant, id string) error {
	old, err := r.store.Entry(ctx, tenant, id)
	if err != nil {
		return err
	}
	return r.store.DeleteEntry(ctx, tenant, id, r.now(), r.event(by, tenant, "entry.delete", id, old.Spec, nil))
}

// Entry gives one entry of the tenant.
func (r *Registry) Entry(ctx context.Context, tenant, id string) (identity.Entry, error) {
	return r.store.Entry(ctx, tenant, id)
}

// Entries lists a page of the tenant's entries and gives the next page's token.
func (r *Registry) Entries(ctx context.Context, tenant string, f store.EntryFilter) ([]identity.Entry, string, error) {
	return r.store.Entries(ctx, tenant, f)
}

func checkSpec(t store.Tenant, s identity.Spec) error {
	for _, check := range []func(store.Tenant, identity.Spec) error{
		checkID, checkParent, checkSelectors, checkTTL, checkProfile, checkHint, checkDNSNames, checkGateway,
	} {
		if err := check(t, s); err != nil {
			return err
		}
	}
	return nil
}

func checkID(t store.Tenant, s identity.Spec) error {
	if err := checkLength(s.SPIFFEID); err != nil {
		return err
	}
	switch {
	case s.SPIFFEID.IsZero():
		return identity.Errorf(identity.Invalid, "spiffe_id is missing; write it as spiffe://%s/<path>", t.TrustDomain)
	case s.SPIFFEID.Path() == "":
		return identity.Errorf(identity.Invalid, "spiffe_id %q has no path, so it names a trust domain and not a workload", s.SPIFFEID)
	case s.SPIFFEID.TrustDomain().Name() != t.TrustDomain:
		return identity.Errorf(identity.Invalid, "spiffe_id %q is outside the tenant's trust domain %q", identity.Clip(s.SPIFFEID.String()), t.TrustDomain)
	case isReserved(s.SPIFFEID.Path()):
		return identity.Errorf(identity.Invalid, "spiffe_id %q is reserved for agents: /agent/<one segment> is given by attestation only", identity.Clip(s.SPIFFEID.String()))
	}
	return nil
}

// checkLength applies the limits that decoding a spiffeid.ID does not know.
func checkLength(id spiffeid.ID) error {
	if id.IsZero() {
		return nil
	}
	_, err := identity.ParseID(id.String())
	return err
}

// isReserved also refuses other spellings of the agents' path, which a
// verifier that compares carelessly could mistake for it (T-11).
func isReserved(path string) bool { return identity.IsAgentPath(strings.ToLower(path)) }

func checkParent(t store.Tenant, s identity.Spec) error {
	if err := checkLength(s.ParentID); err != nil {
		return err
	}
	if s.ParentID.IsZero() {
		if t.Settings.AnyNode {
			return nil
		}
		return identity.Errorf(identity.Invalid, "parent_id is missing; name the agent that may ask for this identity, as spiffe://%s/agent/<node>", t.TrustDomain)
	}
	if s.ParentID.TrustDomain().Name() != t.TrustDomain || !identity.IsAgentPath(s.ParentID.Path()) {
		return identity.Errorf(identity.Invalid, "parent_id %q is not an agent of this tenant; write it as spiffe://%s/agent/<node>",
			identity.Clip(s.ParentID.String()), t.TrustDomain)
	}
	return nil
}

func checkSelectors(_ store.Tenant, s identity.Spec) error {
	if len(s.Selectors) == 0 {
		return identity.Errorf(identity.Invalid, `selectors are missing; give at least one, for example ["unix:uid:1000"]`)
	}
	if len(s.Selectors) > MaxList {
		return identity.Errorf(identity.Invalid, "%d selectors are too many; the limit is %d", len(s.Selectors), MaxList)
	}
	return nil
}

func checkTTL(t store.Tenant, s identity.Spec) error {
	for _, field := range []struct {
		name string
		ttl  identity.Duration
	}{{"ttl", s.TTL}, {"jwt_ttl", s.JWTTTL}} {
		if err := checkLifetime(field.name, time.Duration(field.ttl), maxTTL(t.Settings)); err != nil {
			return err
		}
	}
	return checkRenewAt(s.RenewAt)
}

func checkLifetime(field string, ttl, limit time.Duration) error {
	switch {
	case ttl == 0:
		return nil
	case ttl < MinTTL:
		return identity.Errorf(identity.Invalid, "%s %s is too short; the least is %s", field, ttl, MinTTL)
	case ttl%time.Second != 0:
		return identity.Errorf(identity.Invalid, "%s %s is not a whole number of seconds", field, ttl)
	case ttl > limit:
		return identity.Errorf(identity.LimitExceeded, "%s %s is over the tenant's limit of %s; lower it, or raise max_ttl in the tenant's settings", field, ttl, limit)
	}
	return nil
}

func maxTTL(s store.Settings) time.Duration {
	if s.MaxTTL == 0 {
		return DefaultTTL
	}
	return time.Duration(s.MaxTTL)
}

// checkRenewAt is written so that NaN, too, is refused.
func checkRenewAt(at float64) error {
	if at == 0 || (at >= minRenewAt && at <= maxRenewAt) {
		return nil
	}
	return identity.Errorf(identity.Invalid, "renew_at %v must be a fraction of the lifetime from %v to %v, or 0 for the default", at, minRenewAt, maxRenewAt)
}

func checkProfile(_ store.Tenant, s identity.Spec) error {
	if s.Profile != "" && s.Profile != ProfileAIAgent {
		return identity.Errorf(identity.Invalid, "profile %q is not known; leave it out or use %q", identity.Clip(s.Profile), ProfileAIAgent)
	}
	return nil
}

func checkHint(_ store.Tenant, s identity.Spec) error {
	if len(s.Hint) > MaxHintBytes {
		return identity.Errorf(identity.Invalid, "hint is %d bytes long; the limit is %d", len(s.Hint), MaxHintBytes)
	}
	if !utf8.ValidString(s.Hint) || strings.ContainsFunc(s.Hint, isControl) {
		return identity.Errorf(identity.Invalid, "hint has a control character or is not UTF-8")
	}
	return nil
}

func isControl(r rune) bool { return r < 0x20 || r == 0x7f }

func checkDNSNames(_ store.Tenant, s identity.Spec) error {
	if len(s.DNSNames) > MaxList {
		return identity.Errorf(identity.Invalid, "%d dns_names are too many; the limit is %d", len(s.DNSNames), MaxList)
	}
	for i, name := range s.DNSNames {
		if !isDNSName(name) {
			return identity.Errorf(identity.Invalid, "dns_names: %q is not a host name in lower case without wildcard", identity.Clip(name))
		}
		if slices.Contains(s.DNSNames[:i], name) {
			return identity.Errorf(identity.Invalid, "dns_names: %q is given twice", name)
		}
	}
	return nil
}

// isDNSName accepts a host name of RFC 1123 in lower case.
func isDNSName(name string) bool {
	if name == "" || len(name) > 253 {
		return false
	}
	for _, label := range strings.Split(name, ".") {
		if !isLabel(label) {
			return false
		}
	}
	return true
}

// isLabel accepts one label of RFC 1123 in lower case.
func isLabel(label string) bool {
	return label != "" && len(label) <= 63 &&
		strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") == "" &&
		label[0] != '-' && label[len(label)-1] != '-'
}

func checkGateway(_ store.Tenant, s identity.Spec) error {
	if len(s.Gateway) > MaxList {
		return identity.Errorf(identity.Invalid, "%d gateway services are too many; the limit is %d", len(s.Gateway), MaxList)
	}
	for i, service := range s.Gateway {
		if !isName(service) {
			return identity.Errorf(identity.Invalid, "gateway: %q is not a service name; use letters, digits, '.', '_' and '-'", identity.Clip(service))
		}
		if slices.Contains(s.Gateway[:i], service) {
			return identity.Errorf(identity.Invalid, "gateway: %q is given twice", service)
		}
	}
	return nil
}

// isName accepts the names that people give to things and that stand in URLs.
func isName(s string) bool {
	const alphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
	return s != "" && len(s) <= 128 && s != "." && s != ".." && strings.Trim(s, alphabet) == ""
}
