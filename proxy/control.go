package proxy

import (
	"maps"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/identity/svid"
	"github.com/authsec-ai/icp/policy"
)

// revocations are the serials in force; a set is replaced, never changed.
type revocations map[revokedKey]struct{}

type revokedKey struct{ id, serial string }

// ApplyPolicies puts a set in force and cuts every running request that it no
// longer allows. A set that can't be loaded leaves the old one in force.
func (p *Proxy) ApplyPolicies(set policy.Set) error {
	if err := p.engine.Load(set); err != nil {
		p.log.Error("the policies can't be loaded; the old ones stay in force", "revision", set.Revision, "error", err)
		return err
	}
	p.peers.cutIf((*exchange).reconsider)
	p.log.Info("policies in force", "revision", set.Revision, "count", len(set.Policies))
	return nil
}

// ExpirePolicies makes the proxy deny everything until the next ApplyPolicies:
// the source has been out of reach for too long. Running requests are cut.
func (p *Proxy) ExpirePolicies() {
	p.engine.Expire()
	p.peers.cutIf((*exchange).reconsider)
	p.log.Error("the policies are out of date; everything is denied until the source answers")
}

// ApplyRevocations replaces the set of revoked SVIDs and shuts every connection
// of one, with what runs on it.
func (p *Proxy) ApplyRevocations(list []identity.Revocation) error {
	set := make(revocations, len(list))
	for _, r := range list {
		if r.Kind == identity.X509 {
			set[revokedKey{r.SPIFFEID, r.Serial}] = struct{}{}
		}
	}
	if old := p.revocations.Swap(&set); old != nil && maps.Equal(*old, set) {
		return nil
	}
	p.peers.shutIf(func(caller *peer) *refusal {
		if p.revoked(caller.svid.ID, caller.svid.Serial) {
			return refuseRevoked()
		}
		return nil
	})
	return nil
}

func (p *Proxy) revoked(id spiffeid.ID, serial string) bool {
	set := p.revocations.Load()
	if set == nil || len(*set) == 0 {
		return false
	}
	_, found := (*set)[revokedKey{id.String(), serial}]
	return found
}

// reverify shuts every connection whose SVID the present bundles no longer
// vouch for.
func (p *Proxy) reverify() {
	p.peers.shutIf(func(caller *peer) *refusal {
		_, err := svid.VerifyX509(caller.chain, p.self, svid.X509Options{Now: p.now()})
		if err != nil && p.now().Before(caller.svid.NotAfter) {
			return refuseUntrusted()
		}
		return nil
	})
}
