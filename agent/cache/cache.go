// Package cache holds what the agent may serve: entries, SVIDs and bundles, and
// wakes whoever watches them.
package cache

import (
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// Identity is one X.509-SVID that a workload is entitled to.
type Identity struct {
	EntryID  string
	SVID     *x509svid.SVID // chain, private key, hint
	ChainDER []byte         // concatenated DER, leaf first
	KeyDER   []byte         // PKCS #8 DER
}

// Update is the complete state for one set of selectors.
type Update struct {
	// Identities are ordered oldest entry first; the first is the default.
	Identities []Identity
	// Bundles holds the own trust domain of each identity, and federated ones.
	Bundles map[spiffeid.TrustDomain]*spiffebundle.Bundle
}
