package workloadapi

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/authsec-ai/icp/agent/session"
	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/identity/svid"
)

// ValidateJWTSVID checks a JWT-SVID for the caller, against the bundles that
// the caller may see, and gives its claims (SPIFFE Workload API section 6.2.3).
// A token that fails is InvalidArgument with the rule it broke.
func (s *Server) ValidateJWTSVID(ctx context.Context, req *workload.ValidateJWTSVIDRequest) (*workload.ValidateJWTSVIDResponse, error) {
	if req.GetAudience() == "" {
		return nil, identity.Errorf(identity.Invalid, "audience is required: name yourself as the token's audience does")
	}
	if req.GetSvid() == "" {
		return nil, identity.Errorf(identity.Invalid, "svid is required: the token to validate")
	}
	bundles, err := s.sessions.Bundles(ctx)
	if err != nil {
		return nil, err
	}
	token, err := svid.VerifyJWT(req.GetSvid(), []string{req.GetAudience()}, jwtSet(bundles),
		svid.JWTOptions{Now: s.now(), Leeway: s.leeway})
	if err != nil {
		return nil, &identity.Error{Code: identity.Invalid, Message: "token refused: " + err.Error()}
	}
	claims, err := claimStruct(token)
	if err != nil {
		return nil, fmt.Errorf("encode the claims: %w", err)
	}
	return &workload.ValidateJWTSVIDResponse{SpiffeId: token.ID.String(), Claims: claims}, nil
}

func jwtSet(bundles session.Bundles) *jwtbundle.Set {
	set := jwtbundle.NewSet()
	for _, bundle := range bundles {
		set.Add(bundle.JWTBundle())
	}
	return set
}

// claimStruct gives the claims as signed, with aud always a list. A number
// travels as a double: whole ones are exact to 2^53, which times are far below.
func claimStruct(token *svid.JWT) (*structpb.Struct, error) {
	fields := make(map[string]*structpb.Value, len(token.Claims))
	for name, claim := range token.Claims {
		value, err := structpb.NewValue(plain(claim))
		if err != nil {
			return nil, fmt.Errorf("claim %q: %w", identity.Clip(name), err)
		}
		fields[name] = value
	}
	audience := make([]*structpb.Value, 0, len(token.Audience))
	for _, each := range token.Audience {
		audience = append(audience, structpb.NewStringValue(each))
	}
	fields["aud"] = structpb.NewListValue(&structpb.ListValue{Values: audience})
	return &structpb.Struct{Fields: fields}, nil
}

// plain turns a number that no double can hold into text; all else stays.
func plain(claim any) any {
	switch v := claim.(type) {
	case json.Number:
		if n, err := v.Float64(); err == nil {
			return n
		}
		return v.String()
	case []any:
		list := make([]any, len(v))
		for i, item := range v {
			list[i] = plain(item)
		}
		return list
	case map[string]any:
		object := make(map[string]any, len(v))
		for name, item := range v {
			object[name] = plain(item)
		}
		return object
	}
	return claim
}
