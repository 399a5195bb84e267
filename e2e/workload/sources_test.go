package workload

import (
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/authsec-ai/icp/e2e/devtest"
)

// pick prefers one ID among those that a workload has.
func pick(id string) func([]*x509svid.SVID) *x509svid.SVID {
	return func(svids []*x509svid.SVID) *x509svid.SVID {
		for _, svid := range svids {
			if svid.ID.String() == id {
				return svid
			}
		}
		return svids[0]
	}
}

// jwtSource takes a token through its life: fetched by the caller, validated by
// the callee with the same socket and by its bundle, refused elsewhere.
func jwtSource(t *testing.T, d *devtest.Dev) {
	source, err := workloadapi.NewJWTSource(t.Context(), workloadapi.WithClientOptions(workloadapi.WithAddr(d.AgentSocket)))
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	token, err := source.FetchJWTSVID(t.Context(), jwtsvid.Params{Audience: "spiffe://dev.icp.internal/payments", ExtraAudiences: []string{"ledger"}})
	if err != nil {
		t.Fatal(err)
	}
	if token.ID.String() != d.ID("/dev") {
		t.Errorf("the token is for %s, want the default identity", token.ID)
	}
	client := d.Workload(t)
	for _, audience := range token.Audience {
		validated, err := client.ValidateJWTSVID(t.Context(), token.Marshal(), audience)
		if err != nil || validated.ID != token.ID {
			t.Errorf("twin: the agent says %v, %v of the audience %s", validated, err, audience)
		}
		if _, err := jwtsvid.ParseAndValidate(token.Marshal(), source, []string{audience}); err != nil {
			t.Errorf("twin: by the bundle, audience %s: %v", audience, err)
		}
	}
	for _, audience := range []string{"spiffe://dev.icp.internal/payment", "Ledger", "ledger "} {
		if _, err := client.ValidateJWTSVID(t.Context(), token.Marshal(), audience); status.Code(err) != codes.InvalidArgument {
			t.Errorf("wrong audience %q: the agent says %v, want InvalidArgument", audience, err)
		}
	}
	stranger := spiffeid.RequireFromString(d.ID("/somebody-else"))
	if _, err := source.FetchJWTSVID(t.Context(), jwtsvid.Params{Audience: "ledger", Subject: stranger}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a token for another workload: %v, want PermissionDenied", err)
	}
}
