package workloadapi_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/authsec-ai/icp/agent/agenttest"
	"github.com/authsec-ai/icp/internal/corpus"
)

// TestValidateJWTSVID runs every hostile token and its twin through the RPC.
func TestValidateJWTSVID(t *testing.T) { t.Run("WLAPI-25", hostileTokens) }

func hostileTokens(t *testing.T) {
	world := must[*corpus.World](t)(corpus.New(time.Now()))
	agent := startWith(t, agenttest.Options{Now: func() time.Time { return world.Now }}, web)
	c := client(t, agent)
	validate := func(t *testing.T, test corpus.TokenCase) (*workload.ValidateJWTSVIDResponse, error) {
		for _, authority := range []*corpus.Authority{world.A, world.B} {
			agent.Cache.SetBundle(bundleOf(t, test, authority))
		}
		return c.ValidateJWTSVID(call(t), &workload.ValidateJWTSVIDRequest{Audience: test.Audience[0], Svid: test.Token})
	}
	t.Run("V-67/refused/empty audience", func(t *testing.T) {
		_, err := c.ValidateJWTSVID(call(t), &workload.ValidateJWTSVIDRequest{Svid: world.JWT()[0].Twin.Token})
		wantCode(t, err, codes.InvalidArgument)
	})
	rows := map[string]bool{}
	for _, test := range world.JWT() {
		if test.Exact || !carries(test) {
			continue
		}
		rows[test.Row] = true
		if test.Want == "" {
			t.Run(test.Row+"/accepted/"+test.Name, func(t *testing.T) { accepted(t, validate, test) })
			continue
		}
		t.Run(test.Row+"/refused/"+test.Name, func(t *testing.T) {
			answer, err := validate(t, test)
			refused(t, test, answer, err)
		})
		t.Run(test.Row+"/twin/"+test.Name, func(t *testing.T) { accepted(t, validate, *test.Twin) })
	}
	if len(rows) < 16 { // V-56 to V-73 but V-67, and V-62, which is about fetching bundles
		t.Errorf("only the rows %v were run", slices.Sorted(maps.Keys(rows)))
	}
}

// carries reports whether a request can hold the case at all: proto strings are
// UTF-8, and there is one audience, which the RPC demands.
func carries(test corpus.TokenCase) bool {
	return len(test.Audience) == 1 && test.Audience[0] != "" && test.Token != "" &&
		strings.ToValidUTF8(test.Token, "") == test.Token
}

// bundleOf gives what the case trusts of an authority's trust domain, which may
// be nothing.
func bundleOf(t *testing.T, test corpus.TokenCase, authority *corpus.Authority) *spiffebundle.Bundle {
	t.Helper()
	bundle := spiffebundle.New(authority.TrustDomain)
	if keys, err := test.Bundles.GetJWTBundleForTrustDomain(authority.TrustDomain); err == nil {
		bundle.SetJWTAuthorities(keys.JWTAuthorities())
	}
	return bundle
}

func refused(t *testing.T, test corpus.TokenCase, answer *workload.ValidateJWTSVIDResponse, err error) {
	t.Helper()
	switch status.Code(err) {
	case codes.InvalidArgument:
		if want := "token refused: " + string(test.Want); !strings.HasPrefix(status.Convert(err).Message(), want) {
			t.Errorf("refused for another reason: %v, want %q", err, want)
		}
	case codes.ResourceExhausted: // larger than any request may be
		if len(test.Token) < 1<<20 {
			t.Errorf("a token of %d bytes is refused as too large: %v", len(test.Token), err)
		}
	default:
		t.Errorf("answered %v and %v", answer, err)
	}
}

func accepted(t *testing.T, validate func(*testing.T, corpus.TokenCase) (*workload.ValidateJWTSVIDResponse, error), test corpus.TokenCase) {
	t.Helper()
	answer, err := validate(t, test)
	if err != nil {
		t.Fatal(err)
	}
	if answer.SpiffeId != test.ID.String() {
		t.Errorf("the ID is %q, want %q", answer.SpiffeId, test.ID)
	}
}
