// Package envoysds gives Envoy's Secret Discovery Service to the processes that
// the agent attests: it is the adapter between agent/session and sds.
package envoysds

import (
	"context"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/authsec-ai/icp/agent/cache"
	"github.com/authsec-ai/icp/agent/session"
	"github.com/authsec-ai/icp/sds"
)

// Attestor opens a session for each stream.
type Attestor struct{ Sessions *session.Opener }

// Watch attests the caller of ctx and follows what it may have.
func (a Attestor) Watch(ctx context.Context) (sds.Subscription, error) {
	watch, err := a.Sessions.Watch(ctx)
	if err != nil {
		return nil, err
	}
	return subscription{watch}, nil
}

type subscription struct{ *session.Watch }

// Update gives the caller's state as Envoy needs it.
func (s subscription) Update(ctx context.Context) (*sds.Update, error) {
	update, err := s.Watch.Update(ctx)
	if err != nil {
		return nil, err
	}
	return convert(update), nil
}

func convert(u *cache.Update) *sds.Update {
	out := &sds.Update{
		SVIDs:   make([]*x509svid.SVID, 0, len(u.Identities)),
		Bundles: make([]*x509bundle.Bundle, 0, len(u.Bundles)),
	}
	for _, each := range u.Identities {
		out.SVIDs = append(out.SVIDs, each.SVID)
	}
	for _, bundle := range u.Bundles {
		out.Bundles = append(out.Bundles, bundle.X509Bundle())
	}
	return out
}
