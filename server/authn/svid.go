package authn

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/identity/svid"
	"github.com/authsec-ai/icp/server/store"
)

// Agent establishes an agent from the chain that it presented (leaf first). It
// must be the node's current SVID, and the node not banned. With Denied it gives
// whom, for the record.
func (a *Authenticator) Agent(ctx context.Context, chain []*x509.Certificate) (Principal, error) {
	p, err := a.agentNow(ctx, chain)
	if err == nil {
		p, err = a.withNode(ctx, p)
	}
	if err != nil {
		return p, err
	}
	if p.Serial != p.Node.Serial {
		return Principal{}, identity.Errorf(identity.Unauthenticated, "this agent SVID was replaced by a newer one; connect again with that")
	}
	return p, nil
}

// ReturningAgent is Agent for the one route where an expired SVID still counts,
// up to the grace after its end, and where a replaced one is told apart later
// (two holders of one key). A banned node does not return.
func (a *Authenticator) ReturningAgent(ctx context.Context, chain []*x509.Certificate) (Principal, error) {
	at := a.now()
	if len(chain) > 0 && at.After(chain[0].NotAfter) {
		if over := at.Sub(chain[0].NotAfter); over > a.grace {
			return Principal{}, identity.Errorf(identity.Unauthenticated,
				"agent SVID expired %s ago, longer than the %s within which it can be renewed; attest this node anew", over.Round(time.Second), a.grace)
		}
		at = chain[0].NotAfter.Add(-time.Second)
	}
	p, err := verify(Agent, "agent", chain, a.nodeAnchors(ctx), at)
	if err != nil {
		return Principal{}, err
	}
	return a.withNode(ctx, p)
}

// agentNow verifies chain as of now; what a chain has proved before with the
// same anchors is not computed again.
func (a *Authenticator) agentNow(ctx context.Context, chain []*x509.Certificate) (Principal, error) {
	now, key := a.now(), keyOf(chain)
	if before, ok := a.verified.get(key); ok {
		// The bundle says which trust domain is the tenant's, so that need not be asked first.
		bundle, err := a.bundles.NodeAnchors(ctx, before.proved.Tenant)
		if err == nil && before.holds(bundle, now) {
			return before.proved, nil
		}
	}
	anchors := a.nodeAnchors(ctx)
	p, err := verify(Agent, "agent", chain, anchors, now)
	if err == nil {
		a.verified.put(key, newVerification(chain, anchors.found, p, now))
	}
	return p, err
}

func (a *Authenticator) nodeAnchors(ctx context.Context) *tenantAnchors {
	return &tenantAnchors{ctx: ctx, store: a.store, find: a.bundles.NodeAnchors}
}

// withNode adds the node whose SVID p showed, if it may call.
func (a *Authenticator) withNode(ctx context.Context, p Principal) (Principal, error) {
	var err error
	p.Node, err = a.store.Node(ctx, p.Tenant, p.SPIFFEID.String())
	switch {
	case identity.CodeOf(err) == identity.NotFound:
		return Principal{}, identity.Errorf(identity.Unauthenticated, "agent %s is not registered; attest this node anew", p.SPIFFEID)
	case err != nil:
		return Principal{}, unavailable("look up the agent", err)
	case p.Node.Banned:
		return p, identity.Errorf(identity.Denied, "agent %s is banned", p.SPIFFEID)
	}
	if sum := sha256.Sum256(p.Leaf.RawSubjectPublicKeyInfo); subtle.ConstantTimeCompare(sum[:], p.Node.SPKI) != 1 {
		return p, identity.Errorf(identity.Unauthenticated, "agent SVID is not for the key that this node attested with")
	}
	return p, nil
}

// Workload establishes a workload from the chain that it presented: an SVID
// that was issued here for an entry that still exists, and is not revoked.
func (a *Authenticator) Workload(ctx context.Context, chain []*x509.Certificate) (Principal, error) {
	anchors := &tenantAnchors{ctx: ctx, store: a.store, find: a.workloadAnchors}
	p, err := verify(Workload, "workload", chain, anchors, a.now())
	if err != nil {
		return Principal{}, err
	}
	return a.StillWorkload(ctx, p)
}

// StillWorkload checks again what can change while p is connected, and gives p
// with its entry as it is now.
func (a *Authenticator) StillWorkload(ctx context.Context, p Principal) (Principal, error) {
	if !a.now().Before(p.ExpiresAt) {
		return p, identity.Errorf(identity.Unauthenticated, "workload SVID has expired; connect again with a new one")
	}
	revoked, err := a.store.Revoked(ctx, p.Tenant, p.Serial)
	if err != nil {
		return p, unavailable("look up revocations", err)
	}
	if revoked {
		return p, identity.Errorf(identity.Denied, "workload SVID is revoked")
	}
	issued, err := a.store.Issued(ctx, p.Tenant, p.Serial)
	if err == nil {
		p.Entry, err = a.store.Entry(ctx, p.Tenant, issued.EntryID)
	}
	switch {
	case identity.CodeOf(err) == identity.NotFound:
		return p, identity.Errorf(identity.Denied, "workload SVID was not issued for an entry that exists")
	case err != nil:
		return p, unavailable("look up the entry", err)
	case p.Entry.SPIFFEID != p.SPIFFEID:
		return p, identity.Errorf(identity.Denied, "workload SVID names another identity than its entry")
	}
	return p, nil
}

// StillAgent checks again what can change while p is connected.
func (a *Authenticator) StillAgent(ctx context.Context, p Principal) error {
	if !a.now().Before(p.ExpiresAt) {
		return identity.Errorf(identity.Unauthenticated, "agent SVID has expired; connect again with a new one")
	}
	n, err := a.store.Node(ctx, p.Tenant, p.SPIFFEID.String())
	switch {
	case identity.CodeOf(err) == identity.NotFound:
		return identity.Errorf(identity.Unauthenticated, "agent %s is not registered; attest this node anew", p.SPIFFEID)
	case err != nil:
		return unavailable("look up the agent", err)
	case n.Banned:
		return identity.Errorf(identity.Denied, "agent %s is banned", p.SPIFFEID)
	case subtle.ConstantTimeCompare(n.SPKI, p.Node.SPKI) != 1:
		return identity.Errorf(identity.Unauthenticated, "agent %s was attested anew under another key", p.SPIFFEID)
	}
	return nil
}

func (a *Authenticator) workloadAnchors(ctx context.Context, tenant string) (*x509bundle.Bundle, error) {
	b, err := a.bundles.Bundle(ctx, tenant)
	if err != nil {
		return nil, err
	}
	return b.X509Bundle(), nil
}

// verify checks chain at the given time and gives what it proves.
func verify(kind Kind, noun string, chain []*x509.Certificate, anchors *tenantAnchors, at time.Time) (Principal, error) {
	if len(chain) == 0 {
		return Principal{}, identity.Errorf(identity.Unauthenticated,
			"no client certificate; connect with the %s's SVID and offer the ALPN name icp-mtls beside h2", noun)
	}
	raw := make([][]byte, len(chain))
	for i, c := range chain {
		raw[i] = c.Raw
	}
	v, err := svid.VerifyX509(raw, anchors, svid.X509Options{Now: at})
	if anchors.fault != nil {
		return Principal{}, unavailable("look up the trust bundle", anchors.fault)
	}
	if err != nil {
		return Principal{}, &identity.Error{Code: identity.Unauthenticated, Err: err,
			Message: "client certificate is not a valid " + noun + " SVID (" + string(svid.ReasonOf(err)) + ")"}
	}
	return Principal{
		Kind: kind, Tenant: anchors.tenant.ID, Actor: v.ID.String(),
		SPIFFEID: v.ID, Leaf: v.Leaf, Serial: v.Serial, ExpiresAt: v.NotAfter,
	}, nil
}

// tenantAnchors is the x509bundle.Source of one verification: it finds the
// tenant that owns the trust domain, and remembers it.
type tenantAnchors struct {
	ctx    context.Context
	store  Store
	find   func(ctx context.Context, tenant string) (*x509bundle.Bundle, error)
	tenant store.Tenant
	found  *x509bundle.Bundle
	fault  error // of the store or the CA, as opposed to the certificate's
}

// GetX509BundleForTrustDomain gives the anchors of the trust domain's tenant.
func (t *tenantAnchors) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	var err error
	if t.tenant, err = t.store.TenantByTrustDomain(t.ctx, td.Name()); err != nil {
		return nil, t.note(err)
	}
	t.found, err = t.find(t.ctx, t.tenant.ID)
	return t.found, t.note(err)
}

func (t *tenantAnchors) note(err error) error {
	if err != nil && identity.CodeOf(err) != identity.NotFound {
		t.fault = err
	}
	return err
}
