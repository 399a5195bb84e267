package proxy

import (
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/identity/svid"
	"github.com/authsec-ai/icp/policy"
	"github.com/authsec-ai/icp/policy/source"
)

// revocations are the serials in force; a set is replaced, never changed.
type revocations map[revokedKey]struct{}

type revokedKey struct{ id, serial string }

// sink takes what the source of policies delivers.
type sink struct{ proxy *Proxy }

var _ source.Expirer = sink{}

// ApplyPolicies puts a set in force and cuts every running request that it no
// longer allows. A set that can't be loaded leaves the old one in force.
func (s sink) ApplyPolicies(set policy.Set) error {
	if err := s.proxy.engine.Load(set); err != nil {
		return err
	}
	s.proxy.peers.cutIf((*exchange).reconsider)
	return nil
}

// ExpirePolicies denies everything until the next ApplyPolicies, to running requests
// too.
func (s sink) ExpirePolicies() {
	s.proxy.engine.Expire()
	s.proxy.peers.cutIf((*exchange).reconsider)
}

// ApplyRevocations replaces the set of revoked SVIDs and shuts every connection
// of one, with what runs on it.
func (s sink) ApplyRevocations(list []identity.Revocation) error {
	set := make(revocations, len(list))
	for _, r := range list {
		if r.Kind == identity.X509 {
			set[revokedKey{r.SPIFFEID, r.Serial}] = struct{}{}
		}
	}
	s.proxy.revocations.Store(&set)
	s.proxy.peers.shutIf(s.proxy.revokedPeer)
	return nil
}

func (p *Proxy) revokedPeer(caller *peer) *refusal {
	if p.revoked(caller.svid.ID, caller.svid.Serial) {
		return refuseRevoked()
	}
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
		_, err := svid.VerifyParsed(caller.chain, p.self, svid.X509Options{Now: p.now()})
		if err != nil && p.now().Before(caller.svid.NotAfter) {
			return refuseUntrusted()
		}
		return nil
	})
}
