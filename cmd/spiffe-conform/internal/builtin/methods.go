package builtin

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/authsec-ai/icp/cmd/spiffe-conform/internal/socket"
	"github.com/authsec-ai/icp/cmd/spiffe-conform/internal/strict"
)

// IsWorkloadAPI says whether a method is one of the Workload API.
func IsWorkloadAPI(method string) bool { return strings.HasPrefix(method, "/"+socket.WorkloadAPI+"/") }

// follow sends a message now and after each change.
func follow[T any](s *Server, stream grpc.ServerStreamingServer[T], message func(n int, svids []identity) (*T, error)) error {
	time.Sleep(s.behaviour.FirstMessage)
	for n := 0; ; n++ {
		svids, changed := s.now()
		if len(svids) == 0 && !s.behaviour.EmptyWhenRevoked {
			return s.revoked(stream.Context())
		}
		m, err := message(n, svids)
		if err != nil {
			return status.Error(codes.Internal, err.Error())
		}
		if err := stream.Send(m); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

func (s *Server) revoked(ctx context.Context) error {
	if s.behaviour.Revoked == nil {
		return status.Error(codes.PermissionDenied, "this process has no identity any more")
	}
	if err := s.behaviour.Revoked(); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}

// FetchX509SVID streams the X.509-SVIDs.
func (s *Server) FetchX509SVID(_ *workload.X509SVIDRequest, stream grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	return follow(s, stream, func(n int, svids []identity) (*workload.X509SVIDResponse, error) {
		m := &workload.X509SVIDResponse{FederatedBundles: map[string][]byte{foreign: s.authority.foreignAnchor}}
		for _, each := range svids {
			m.Svids = append(m.Svids, &workload.X509SVID{
				SpiffeId: each.id, X509Svid: each.chain, X509SvidKey: each.key, Bundle: s.authority.anchor, Hint: each.hint,
			})
		}
		if s.behaviour.X509 != nil {
			s.behaviour.X509(n, m)
		}
		return m, nil
	})
}

// FetchX509Bundles streams the X.509 bundles.
func (s *Server) FetchX509Bundles(_ *workload.X509BundlesRequest, stream grpc.ServerStreamingServer[workload.X509BundlesResponse]) error {
	return follow(s, stream, func(int, []identity) (*workload.X509BundlesResponse, error) {
		m := &workload.X509BundlesResponse{Bundles: map[string][]byte{home: s.authority.anchor, foreign: s.authority.foreignAnchor}}
		if s.behaviour.X509Bundles != nil {
			s.behaviour.X509Bundles(m)
		}
		return m, nil
	})
}

// FetchJWTBundles streams the JWT bundles.
func (s *Server) FetchJWTBundles(_ *workload.JWTBundlesRequest, stream grpc.ServerStreamingServer[workload.JWTBundlesResponse]) error {
	return follow(s, stream, func(int, []identity) (*workload.JWTBundlesResponse, error) {
		own, other, err := s.authority.keySets()
		if err != nil {
			return nil, err
		}
		m := &workload.JWTBundlesResponse{Bundles: map[string][]byte{home: own, foreign: other}}
		if s.behaviour.JWTBundles != nil {
			s.behaviour.JWTBundles(m)
		}
		return m, nil
	})
}

// FetchJWTSVID gives tokens.
func (s *Server) FetchJWTSVID(_ context.Context, request *workload.JWTSVIDRequest) (*workload.JWTSVIDResponse, error) {
	if len(request.GetAudience()) == 0 || slices.Contains(request.GetAudience(), "") {
		return nil, status.Error(codes.InvalidArgument, "audience is required")
	}
	if request.GetSpiffeId() != "" {
		if _, _, err := strict.ID(request.GetSpiffeId()); err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
	}
	svids, _ := s.now()
	m := &workload.JWTSVIDResponse{}
	for _, each := range svids {
		if request.GetSpiffeId() != "" && request.GetSpiffeId() != each.id {
			continue
		}
		token, err := s.authority.token(each.id, request.GetAudience())
		if err != nil {
			return nil, status.Error(codes.Internal, err.Error())
		}
		m.Svids = append(m.Svids, &workload.JWTSVID{SpiffeId: each.id, Svid: token, Hint: each.hint})
	}
	entitled := len(m.Svids) > 0
	if s.behaviour.JWT != nil {
		s.behaviour.JWT(request, m)
	}
	if !entitled && len(m.Svids) == 0 {
		return nil, status.Error(codes.PermissionDenied, "this process has no such identity")
	}
	return m, nil
}

// ValidateJWTSVID checks a token.
func (s *Server) ValidateJWTSVID(_ context.Context, request *workload.ValidateJWTSVIDRequest) (*workload.ValidateJWTSVIDResponse, error) {
	m, err := s.validate(request)
	if err != nil {
		m, err = &workload.ValidateJWTSVIDResponse{}, status.Error(codes.InvalidArgument, err.Error())
	}
	if s.behaviour.Validate != nil {
		err = s.behaviour.Validate(request, m, err)
	}
	if err != nil {
		return nil, err
	}
	return m, nil
}

func (s *Server) validate(request *workload.ValidateJWTSVIDRequest) (*workload.ValidateJWTSVIDResponse, error) {
	if request.GetAudience() == "" {
		return nil, fmt.Errorf("audience is required")
	}
	token, err := strict.DecodeToken(request.GetSvid())
	if err != nil {
		return nil, err
	}
	audience, err := token.Audience()
	if err != nil {
		return nil, err
	}
	if !slices.Contains(audience, request.GetAudience()) {
		return nil, fmt.Errorf("the token is for %q", audience)
	}
	if err := s.authority.verify(token); err != nil {
		return nil, err
	}
	return claimsOf(token)
}

// claimsOf gives the claims, aud as a list.
func claimsOf(token *strict.Token) (*workload.ValidateJWTSVIDResponse, error) {
	raw, err := json.Marshal(token.Claims)
	if err != nil {
		return nil, err
	}
	var plain map[string]any
	if err := json.Unmarshal(raw, &plain); err != nil {
		return nil, err
	}
	if text, ok := plain["aud"].(string); ok {
		plain["aud"] = []any{text}
	}
	claims, err := structpb.NewStruct(plain)
	if err != nil {
		return nil, err
	}
	sub, err := token.Subject()
	return &workload.ValidateJWTSVIDResponse{SpiffeId: sub, Claims: claims}, err
}

// FetchWITSVID is not there, or it is without its companion.
func (s *Server) FetchWITSVID(_ *workload.WITSVIDRequest, stream grpc.ServerStreamingServer[workload.WITSVIDResponse]) error {
	if !s.behaviour.WIT {
		return status.Error(codes.Unimplemented, "there is no WIT profile")
	}
	return stream.Send(&workload.WITSVIDResponse{})
}
