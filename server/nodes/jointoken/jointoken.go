// Package jointoken attests a node by a single-use secret that an administrator
// made for it.
//
// The token is only looked up here. It is used up in the transaction that
// writes the node, so that of two agents with one token exactly one wins, and a
// crash between the two leaves either both or neither.
package jointoken

import (
	"context"
	"crypto/subtle"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/server/nodes"
	"github.com/authsec-ai/icp/server/registry"
	"github.com/authsec-ai/icp/server/secret"
	"github.com/authsec-ai/icp/server/store"
)

// Method is the name of this method on the wire.
const Method = "join_token"

// Tokens finds join tokens.
type Tokens interface {
	JoinTokenByHash(ctx context.Context, hash []byte) (store.JoinToken, error)
}

// Verifier is the nodes.Verifier of join tokens.
type Verifier struct{ Tokens Tokens }

// Verify finds the token. An unknown, used and expired token each get the same
// answer, which helps nobody to guess.
func (v Verifier) Verify(ctx context.Context, ev nodes.Evidence) (nodes.Claim, error) {
	hash := secret.Hash(ev.Token)
	t, err := v.Tokens.JoinTokenByHash(ctx, hash)
	if err != nil && identity.CodeOf(err) != identity.NotFound {
		return nodes.Claim{}, err
	}
	if err != nil || subtle.ConstantTimeCompare(t.Hash, hash) != 1 || !ev.Now.Before(t.ExpiresAt) {
		return nodes.Claim{}, identity.Errorf(identity.Unauthenticated,
			"join token is not known, used up or expired; ask an administrator for a new one")
	}
	name, err := nodeName(t, ev.NodeName)
	if err != nil {
		return nodes.Claim{}, err
	}
	return nodes.Claim{Tenant: t.Tenant, NodeName: name, TokenHash: hash}, nil
}

// nodeName is the token's, or the agent's choice where the token leaves it.
func nodeName(t store.JoinToken, wanted string) (string, error) {
	switch {
	case t.NodeName == "" && wanted == "":
		return "", identity.Errorf(identity.Invalid, "node_id is missing; this join token leaves the name of the node to the agent")
	case t.NodeName == "":
		return wanted, registry.CheckNodeName(wanted)
	case wanted != "" && wanted != t.NodeName:
		return "", identity.Errorf(identity.Denied, "this join token is for another node")
	}
	return t.NodeName, nil
}
