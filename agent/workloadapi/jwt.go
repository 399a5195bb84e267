package workloadapi

import (
	"context"
	"crypto"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/go-jose/go-jose/v4"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"

	"github.com/authsec-ai/icp/agent/cache"
	"github.com/authsec-ai/icp/agent/session"
	"github.com/authsec-ai/icp/identity"
)

const (
	maxAudiences     = 32
	maxAudienceBytes = 2048
)

// FetchJWTSVID gives the caller's JWT-SVIDs for an audience, default identity
// first, or that of one identity (SPIFFE Workload API section 6.2.1).
func (s *Server) FetchJWTSVID(ctx context.Context, req *workload.JWTSVIDRequest) (*workload.JWTSVIDResponse, error) {
	audience, err := parseAudience(req.GetAudience())
	if err != nil {
		return nil, err
	}
	id, err := parseOptionalID(req.GetSpiffeId())
	if err != nil {
		return nil, err
	}
	caller, err := s.sessions.Attest(ctx)
	if err != nil {
		return nil, err
	}
	svids, err := s.cache.FetchJWT(ctx, caller.Selectors, caller.Evidence, id, audience)
	if err != nil {
		return nil, err
	}
	if err := caller.Check(); err != nil {
		return nil, err
	}
	return s.jwtResponse(svids, id)
}

// parseAudience checks the requested audience and drops repeated values.
func parseAudience(requested []string) ([]string, error) {
	if len(requested) == 0 {
		return nil, identity.Errorf(identity.Invalid, "audience is required: name who the token is for")
	}
	if len(requested) > maxAudiences {
		return nil, identity.Errorf(identity.Invalid, "audience has %d values; the limit is %d", len(requested), maxAudiences)
	}
	audience := make([]string, 0, len(requested))
	for _, value := range requested {
		switch {
		case value == "":
			return nil, identity.Errorf(identity.Invalid, "audience has an empty value; name who the token is for")
		case len(value) > maxAudienceBytes:
			return nil, identity.Errorf(identity.Invalid, "an audience value is %d bytes long; the limit is %d", len(value), maxAudienceBytes)
		case !slices.Contains(audience, value):
			audience = append(audience, value)
		}
	}
	return audience, nil
}

// parseOptionalID parses a workload's ID; empty gives the zero ID.
func parseOptionalID(text string) (spiffeid.ID, error) {
	if text == "" {
		return spiffeid.ID{}, nil
	}
	return identity.ParseWorkloadID(text)
}

func (s *Server) jwtResponse(svids []cache.JWTSVID, id spiffeid.ID) (*workload.JWTSVIDResponse, error) {
	hints := newHints(s.log)
	response := &workload.JWTSVIDResponse{}
	for _, each := range svids {
		if !id.IsZero() && each.ID != id {
			continue // never hand out what was not asked for
		}
		response.Svids = append(response.Svids, &workload.JWTSVID{
			SpiffeId: each.ID.String(),
			Svid:     each.Token,
			Hint:     hints.once(each.ID, each.Hint),
		})
	}
	if len(response.Svids) == 0 {
		return nil, session.NoIdentity()
	}
	return response, nil
}

// FetchJWTBundles streams the JWT bundles of the caller's own trust domain and
// of federated ones (section 6.2.2).
func (s *Server) FetchJWTBundles(_ *workload.JWTBundlesRequest, stream grpc.ServerStreamingServer[workload.JWTBundlesResponse]) error {
	return follow(s.sessions, stream, jwtBundles)
}

func jwtBundles(_ context.Context, watch *session.Watch) (*workload.JWTBundlesResponse, error) {
	bundles, err := watch.Bundles()
	if err != nil {
		return nil, err
	}
	encoded := make(map[string][]byte, len(bundles))
	for td, bundle := range bundles {
		raw, err := jwks(bundle.JWTAuthorities())
		if err != nil {
			return nil, fmt.Errorf("encode the JWT bundle of %s: %w", td, err)
		}
		encoded[td.IDString()] = raw
	}
	return &workload.JWTBundlesResponse{Bundles: encoded}, nil
}

// jwks encodes JWT keys as a JWK Set in the order of their ids, so that the
// same keys give the same bytes.
func jwks(keys map[string]crypto.PublicKey) ([]byte, error) {
	set := jose.JSONWebKeySet{Keys: make([]jose.JSONWebKey, 0, len(keys))}
	for _, kid := range slices.Sorted(maps.Keys(keys)) {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: keys[kid], KeyID: kid, Use: "jwt-svid"})
	}
	return json.Marshal(set)
}
