// Package store defines what the server keeps and the rules that hold for it.
// Packages sqlite and postgres implement it; package storetest checks both.
//
// Every mutation writes its row, its change record, the tenant's new revision
// and its audit event in one transaction, or nothing. Revisions of a tenant
// become visible in order: the transaction takes the tenant's counter last and
// holds it until commit, so a reader that has seen revision n never meets a
// smaller one later.
//
// Errors are *identity.Error: NotFound for what is absent or another tenant's,
// Conflict (with the ID in the way) for a duplicate, Denied where an
// authorization inside a statement failed; Invalid for what can't be stored;
// Unavailable when the database does not answer (the outcome of a write is then
// unknown). Times are kept to the microsecond.
package store

import (
	"context"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/audit"
	"github.com/authsec-ai/icp/policy"
)

// Store is everything; consumers ask for the facet they need.
type Store interface {
	Tenants
	Registry
	Nodes
	Issuances
	Access
	// Ping reports whether the database answers.
	Ping(ctx context.Context) error
	// Close releases the database.
	Close() error
}

// Tenant is one isolated customer.
type Tenant struct {
	ID          string    `json:"id"`
	TrustDomain string    `json:"trust_domain"` // primary
	Settings    Settings  `json:"settings"`
	CreatedAt   time.Time `json:"created_at"`
	Cursor      Cursor    `json:"cursor"`
}

// Settings are a tenant's defaults and limits.
type Settings struct {
	TTL     identity.Duration `json:"ttl,omitempty"`      // default X.509-SVID lifetime, 0 means 1 h
	MaxTTL  identity.Duration `json:"max_ttl,omitempty"`  // 0 means 1 h
	RenewAt float64           `json:"renew_at,omitempty"` // 0 means 0.66
	AnyNode bool              `json:"any_node,omitempty"` // entries without a parent are allowed
}

// Cursor is a place in a tenant's history. Another Epoch means that history
// was rewritten (restore, promotion): take a snapshot.
type Cursor struct {
	Epoch    string `json:"epoch"`
	Revision int64  `json:"revision"`
}

// Tenants keeps tenants and waits for their changes.
type Tenants interface {
	CreateTenant(ctx context.Context, t Tenant, authorities []Authority, ev audit.Event) error
	Tenant(ctx context.Context, id string) (Tenant, error)
	// TenantByTrustDomain finds the tenant that owns a trust domain.
	TenantByTrustDomain(ctx context.Context, td string) (Tenant, error)
	Tenants(ctx context.Context) ([]Tenant, error)
	UpdateSettings(ctx context.Context, tenant string, s Settings, ev audit.Event) error
	// Wait returns the tenant's cursor as soon as it is past after. When ctx ends
	// it returns the last cursor it knows with ctx's own error.
	Wait(ctx context.Context, tenant string, after Cursor) (Cursor, error)
	// Changes lists what changed after a revision, oldest first, at most limit
	// or a few more: a revision is never split.
	Changes(ctx context.Context, tenant string, after int64, limit int) ([]Change, error)
}

// Change is one line of a tenant's history.
type Change struct {
	Revision int64
	Kind     string // one of the Change constants
	Object   string // entry id, policy name, node ID, …
	Parent   string // entries: the parent that gains or loses it
	Deleted  bool   // the object is gone (for Parent)
}

// Kinds of Change.
const (
	ChangeEntry      = "entry"
	ChangePolicy     = "policy"
	ChangeNode       = "node"
	ChangeRevocation = "revocation"
	ChangeBundle     = "bundle"
	ChangeTenant     = "tenant"
)

// EntryFilter narrows a listing; empty fields do not.
type EntryFilter struct {
	SPIFFEID string
	ParentID string
	Selector string // canonical "type:value"
	Search   string // part of the SPIFFE ID
	Limit    int    // 1…1000, 0 means 100
	After    string // opaque page token from the listing before
}

// Registry keeps entries, policies and the audit trail.
type Registry interface {
	// CreateEntry fills in Revision; ID and CreatedAt are the caller's. An entry with the same SPIFFE ID, parent and selectors is a Conflict.
	CreateEntry(ctx context.Context, e identity.Entry, ev audit.Event) (identity.Entry, error)
	// UpdateEntry replaces the Spec. ifRevision 0 means whatever is there; else a mismatch is a Conflict.
	// A Spec that may not cover everybody whom the old one did (identity.Spec.Covers)
	// revokes the live credentials that were issued for the entry.
	UpdateEntry(ctx context.Context, e identity.Entry, ifRevision int64, now time.Time, ev audit.Event) (identity.Entry, error)
	// DeleteEntry also revokes the live credentials that were issued for it.
	DeleteEntry(ctx context.Context, tenant, id string, now time.Time, ev audit.Event) error
	Entry(ctx context.Context, tenant, id string) (identity.Entry, error)
	// Entries lists oldest first and gives the token of the next page, "" at the end.
	Entries(ctx context.Context, tenant string, f EntryFilter) ([]identity.Entry, string, error)
	// EntriesByID gives those that exist, in any order.
	EntriesByID(ctx context.Context, tenant string, ids []string) ([]identity.Entry, error)
	// EntriesByParent gives all entries of one parent, oldest first, with the
	// cursor at which that was the whole truth.
	EntriesByParent(ctx context.Context, tenant, parent string) ([]identity.Entry, Cursor, error)

	// CreatePolicy is PutPolicy for a name that must be free, else it is a Conflict.
	CreatePolicy(ctx context.Context, tenant string, p policy.Policy, ev audit.Event) error
	// PutPolicy creates or replaces by name and reports whether it was created.
	PutPolicy(ctx context.Context, tenant string, p policy.Policy, ev audit.Event) (created bool, err error)
	DeletePolicy(ctx context.Context, tenant, name string, ev audit.Event) error
	// Policies gives the complete set, ordered by name, at its revision.
	Policies(ctx context.Context, tenant string) (policy.Set, error)

	// RecordEvent writes an audit event that comes with no mutation (a denial).
	// Without a tenant it is the platform's; Events lists those under "".
	RecordEvent(ctx context.Context, ev audit.Event) error
	// RecordEvents is RecordEvent for several of one tenant, all or none.
	RecordEvents(ctx context.Context, tenant string, events []audit.Event) error
	// Events lists newest first; before 0 means from the newest.
	Events(ctx context.Context, tenant string, before int64, limit int) ([]audit.Event, error)
}

// JoinToken is a single-use right to attest one node. Join tokens make no
// revision: nobody keeps a copy of them.
type JoinToken struct {
	ID        string    `json:"id"` // public handle
	Tenant    string    `json:"tenant"`
	Hash      []byte    `json:"-"`                   // SHA-256 of the secret
	NodeName  string    `json:"node_name,omitempty"` // "" lets the agent choose
	ExpiresAt time.Time `json:"expires_at"`
	CreatedAt time.Time `json:"created_at"`
}

// Nodes keeps join tokens and attested agents.
type Nodes interface {
	CreateJoinToken(ctx context.Context, t JoinToken, ev audit.Event) error
	JoinTokens(ctx context.Context, tenant string) ([]JoinToken, error)
	DeleteJoinToken(ctx context.Context, tenant, id string, ev audit.Event) error
	// JoinTokenByHash finds a token of any tenant without using it up.
	JoinTokenByHash(ctx context.Context, hash []byte) (JoinToken, error)

	// AttestNode uses up the token (if tokenHash is not nil) and writes node and
	// issuance (an intent of kind Agent), all or nothing. An absent, used or
	// expired token, or another tenant's, is Unauthenticated; one for another node
	// name is Denied; a node with that ID that is live under another key is a
	// Conflict, a banned one Denied.
	AttestNode(ctx context.Context, n identity.Node, tokenHash []byte, now time.Time, ev audit.Event) error
	// RenewNode replaces the serial oldSerial by n.Serial. The serial before the
	// last renewal is good too until the new one has been seen by TouchNode, so
	// that an agent that never got the answer can ask again. Any other serial is
	// a Conflict (two holders of one key); a banned node is Denied.
	RenewNode(ctx context.Context, n identity.Node, oldSerial string, now time.Time, ev audit.Event) error
	Node(ctx context.Context, tenant, id string) (identity.Node, error)
	Nodes(ctx context.Context, tenant string) ([]identity.Node, error)
	// TouchNode stores when a node was last heard of, and with which serial; it
	// makes no revision.
	TouchNode(ctx context.Context, tenant, id, serial string, now time.Time) error
	// BanNode also revokes every live credential that was issued through it.
	BanNode(ctx context.Context, tenant, id string, now time.Time, ev audit.Event) error
	// DeleteNode forgets a node (it must attest anew); revokes as BanNode does.
	DeleteNode(ctx context.Context, tenant, id string, now time.Time, ev audit.Event) error
}

// Authority is a signing key of a tenant, wrapped.
type Authority struct {
	ID          string // SKI or kid, lower-case hex
	Tenant      string
	TrustDomain string
	Purpose     Purpose
	Certificate []byte // DER; nil for JWT keys
	SPKI        []byte // DER of the public key; unique over all tenants
	WrappedKey  []byte // PKCS #8 wrapped by the tenant's key-encryption key
	Issuer      string // ID of the anchor that signed it, "" if self-signed
	CreatedAt   time.Time
	ExpiresAt   time.Time
}

// Purpose says what an Authority signs.
type Purpose string

// The purposes of an Authority.
const (
	WorkloadAnchor Purpose = "workload-anchor"
	WorkloadIssuer Purpose = "workload-issuer"
	NodeAnchor     Purpose = "node-anchor"
	NodeIssuer     Purpose = "node-issuer"
	JWTKey         Purpose = "jwt-key"
)

// Intent is one credential that is about to be made.
type Intent struct {
	Kind          identity.Kind
	Serial        string // serial in lower-case hex, or jti
	RequestID     string
	EntryID       string
	EntryRevision int64
	SPIFFEID      spiffeid.ID
	Evidence      string
	SPKI          []byte // SHA-256 of the public key; nil for JWT
	NotBefore     time.Time
	ExpiresAt     time.Time
}

// Issuance is a recorded Intent with its end.
type Issuance struct {
	Intent
	Tenant string
	Node   string
	State  string // "intent", "issued", "abandoned"
}

// Issuances keeps authorities, the issuance record and revocations.
type Issuances interface {
	// PutAuthority adds a key and claims its trust domain for the tenant. An ID or
	// key that exists, or a trust domain of another tenant, is a Conflict.
	PutAuthority(ctx context.Context, a Authority, ev audit.Event) error
	// Authorities gives a tenant's, newest first.
	Authorities(ctx context.Context, tenant string) ([]Authority, error)

	// RecordIntents authorizes and records, item by item in one transaction: an
	// item is Denied unless its entry exists at EntryRevision with that SPIFFE
	// ID, is parented to node (or to no node), and node is current, not expired
	// at now and not banned. A second item with the RequestID and SPKI of an
	// earlier one of this node gets that one back; the same RequestID for
	// anything else, or for one that is revoked or has expired, is a Conflict, and
	// so is a serial in use. The answer has one Intent or error per item.
	RecordIntents(ctx context.Context, tenant, node string, now time.Time, items []Intent) ([]Intent, []error, error)
	// FinishIntents marks serials issued (or abandoned); it passes over unknown ones.
	FinishIntents(ctx context.Context, tenant string, serials []string, issued bool) error
	// Issued finds one record; NotFound if there is none.
	Issued(ctx context.Context, tenant, serial string) (Issuance, error)
	// IssuanceCount counts records that are not abandoned.
	IssuanceCount(ctx context.Context, tenant string) (int64, error)
	// Revocations gives what is revoked and not yet expired at now. Intents that
	// were never finished, or abandoned, count as live: they may have got out.
	Revocations(ctx context.Context, tenant string, now time.Time) ([]identity.Revocation, error)
	// Revoked reports whether one serial is revoked.
	Revoked(ctx context.Context, tenant, serial string) (bool, error)
	// Prune drops issuance records, revocations and join tokens that expired before then.
	Prune(ctx context.Context, before time.Time) error
}

// Role is what an API token may do.
type Role string

// The roles. PlatformAdmin belongs to no tenant and names one per request.
const (
	PlatformAdmin Role = "platform-admin"
	TenantAdmin   Role = "tenant-admin"
	Viewer        Role = "viewer"
	Auditor       Role = "auditor"
)

// APIToken is a bearer credential of an administrator or program. API tokens
// make no revision.
type APIToken struct {
	ID        string    `json:"id"`
	Tenant    string    `json:"tenant,omitempty"` // "" for PlatformAdmin
	Role      Role      `json:"role"`
	Name      string    `json:"name"`
	Hash      []byte    `json:"-"` // SHA-256 of the secret
	ExpiresAt time.Time `json:"expires_at"`
	CreatedAt time.Time `json:"created_at"`
}

// Access keeps API tokens.
type Access interface {
	CreateAPIToken(ctx context.Context, t APIToken, ev audit.Event) error
	APITokenByHash(ctx context.Context, hash []byte) (APIToken, error)
	// APITokens lists a tenant's, or with "" the platform's.
	APITokens(ctx context.Context, tenant string) ([]APIToken, error)
	DeleteAPIToken(ctx context.Context, tenant, id string, ev audit.Event) error
}
