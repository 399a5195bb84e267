package selftest

import (
	"encoding/base64"
	"strings"
	"sync/atomic"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/authsec-ai/icp/cmd/spiffe-conform/internal/builtin"
)

func validateBreakages() []Breakage {
	accepts := func(name, says string, lax func(*workload.ValidateJWTSVIDRequest) bool) Breakage {
		return Breakage{Row: "WLAPI-25", Name: name, Says: says, Behaviour: builtin.Behaviour{
			Validate: func(r *workload.ValidateJWTSVIDRequest, _ *workload.ValidateJWTSVIDResponse, err error) error {
				if lax(r) {
					return nil
				}
				return err
			}}}
	}
	claims := func(name, says string, edit func(*workload.ValidateJWTSVIDResponse)) Breakage {
		return Breakage{Row: "WLAPI-26", Name: name, Says: says, Behaviour: builtin.Behaviour{
			Validate: func(_ *workload.ValidateJWTSVIDRequest, m *workload.ValidateJWTSVIDResponse, err error) error {
				if err == nil {
					edit(m)
				}
				return err
			}}}
	}
	return []Breakage{
		accepts("everything accepted", "signature of zeros", func(*workload.ValidateJWTSVIDRequest) bool { return true }),
		accepts("unsigned tokens accepted", `alg "none", unsigned`, func(r *workload.ValidateJWTSVIDRequest) bool { return strings.Contains(header(r), `"none"`) }),
		accepts("HMAC accepted", "HS256 keyed with the public key as PEM", func(r *workload.ValidateJWTSVIDRequest) bool { return strings.Contains(header(r), "HS256") }),
		accepts("a key in the header accepted", "a forger's key in jwk", func(r *workload.ValidateJWTSVIDRequest) bool { return strings.Contains(header(r), `"jwk"`) }),
		accepts("any audience accepted", `audience "somebody-else"`, func(r *workload.ValidateJWTSVIDRequest) bool { return r.GetAudience() == "somebody-else" }),
		accepts("JSON accepted", "flattened JSON", func(r *workload.ValidateJWTSVIDRequest) bool { return strings.HasPrefix(r.GetSvid(), "{") }),
		accepts("space accepted", "a space before", func(r *workload.ValidateJWTSVIDRequest) bool { return strings.HasPrefix(r.GetSvid(), " ") }),
		accepts("padding accepted", "padding", func(r *workload.ValidateJWTSVIDRequest) bool { return strings.HasSuffix(r.GetSvid(), "==") }),
		{Row: "WLAPI-25", Name: "everything refused", Says: "the token as it was issued gives", Behaviour: builtin.Behaviour{
			Validate: func(*workload.ValidateJWTSVIDRequest, *workload.ValidateJWTSVIDResponse, error) error {
				return status.Error(codes.InvalidArgument, "no")
			}}},
		claims("no claims", "sub <nil>", func(m *workload.ValidateJWTSVIDResponse) { m.Claims = nil }),
		claims("no ID", `spiffe_id is ""`, func(m *workload.ValidateJWTSVIDResponse) { m.SpiffeId = "" }),
		claims("aud as text", "which is no list", func(m *workload.ValidateJWTSVIDResponse) {
			m.Claims.Fields["aud"] = structpb.NewStringValue("spiffe-conform")
		}),
		claims("exp rounded", "exp is", func(m *workload.ValidateJWTSVIDResponse) {
			m.Claims.Fields["exp"] = structpb.NewNumberValue(float64(float32(m.Claims.Fields["exp"].GetNumberValue() + 64)))
		}),
		claims("no exp", "exp is <nil>", func(m *workload.ValidateJWTSVIDResponse) { delete(m.Claims.Fields, "exp") }),
	}
}

// header gives the JSON of a token's header, or "".
func header(r *workload.ValidateJWTSVIDRequest) string {
	part, _, _ := strings.Cut(r.GetSvid(), ".")
	raw, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		return ""
	}
	return string(raw)
}

func changeBreakages() []Breakage {
	later := func(row, name, says string, edit func(*workload.X509SVIDResponse)) Breakage {
		return Breakage{Row: row, Name: name, Says: says, Behaviour: builtin.Behaviour{X509: func(n int, m *workload.X509SVIDResponse) {
			if n > 0 {
				edit(m)
			}
		}}}
	}
	swapped := func(m *workload.X509SVIDResponse) { m.Svids[0], m.Svids[1] = m.Svids[1], m.Svids[0] }
	var turn atomic.Int32
	return []Breakage{
		later("WLAPI-03", "the changed SVID alone", "a fresh stream", func(m *workload.X509SVIDResponse) { m.Svids = m.Svids[1:] }),
		later("WLAPI-03", "a bundle left out", "bundle of", func(m *workload.X509SVIDResponse) { m.Svids[0].Bundle = nil }),
		later("WLAPI-03", "federated bundles left out", "has federated bundles", func(m *workload.X509SVIDResponse) { m.FederatedBundles = nil }),
		{Row: "WLAPI-17", Name: "the stream stays open", Says: "the stream stayed open", Quick: true, Behaviour: builtin.Behaviour{Revoked: func() error { return nil }}},
		{Row: "WLAPI-17", Name: "another code", Says: "the stream ends with", Behaviour: builtin.Behaviour{Revoked: func() error { return status.Error(codes.Unavailable, "gone") }}},
		{Row: "WLAPI-17", Name: "an empty list", Says: "a message without SVIDs", Behaviour: builtin.Behaviour{EmptyWhenRevoked: true}},
		later("WLAPI-27", "the order turned by a change", "on the stream the order was", swapped),
		svids("WLAPI-27", "the order by chance", "the order was", func(m *workload.X509SVIDResponse) {
			if turn.Add(1)%2 == 0 {
				swapped(m)
			}
		}),
	}
}
