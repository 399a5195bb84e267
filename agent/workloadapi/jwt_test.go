package workloadapi_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/authsec-ai/icp/agent/agenttest"
)

// TestWLAPIJWT has the rows of the Workload API standard about JWT-SVIDs.
func TestWLAPIJWT(t *testing.T) {
	t.Run("WLAPI-09", mandatoryArguments)
	t.Run("WLAPI-17", jwtRedaction)
	t.Run("WLAPI-22", audience)
	t.Run("WLAPI-23", oneIdentity)
	t.Run("WLAPI-24", jwtBundles)
	t.Run("WLAPI-26", claims)
}

func mandatoryArguments(t *testing.T) {
	agent := start(t, web)
	c := client(t, agent)
	for name, list := range map[string][]string{
		"no audience": nil, "empty audience": {""}, "one empty audience": {"db", ""},
		"33 audiences": many(33), "long audience": {strings.Repeat("a", 2049)},
	} {
		t.Run("refused/FetchJWTSVID "+name, func(t *testing.T) {
			_, err := c.FetchJWTSVID(call(t), &workload.JWTSVIDRequest{Audience: list})
			wantCode(t, err, codes.InvalidArgument)
		})
	}
	token := agent.Authority.Token(web, []string{"db", ""})
	for name, req := range map[string]*workload.ValidateJWTSVIDRequest{
		"no audience": {Svid: token}, "no token": {Audience: "db"}, "nothing": {},
	} {
		t.Run("refused/ValidateJWTSVID "+name, func(t *testing.T) {
			_, err := c.ValidateJWTSVID(call(t), req)
			wantCode(t, err, codes.InvalidArgument)
		})
	}
	if n := agent.Attestations(); n != 0 {
		t.Errorf("%d attestations for requests that were malformed", n)
	}
	t.Run("twin", func(t *testing.T) {
		_, err := c.FetchJWTSVID(call(t), &workload.JWTSVIDRequest{Audience: many(32)})
		wantCode(t, err, codes.OK)
		_, err = c.ValidateJWTSVID(call(t), &workload.ValidateJWTSVIDRequest{Audience: "db", Svid: agent.Authority.Token(web, []string{"db"})})
		wantCode(t, err, codes.OK)
	})
}

func many(n int) []string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf("service-%d", i))
	}
	return list
}

func jwtRedaction(t *testing.T) {
	agent := start(t, web)
	stream := must[grpc.ServerStreamingClient[workload.JWTBundlesResponse]](t)(
		client(t, agent).FetchJWTBundles(call(t), &workload.JWTBundlesRequest{}))
	next(t, stream)
	t.Run("twin", func(t *testing.T) {
		federate(t, agent, "partner.test")
		if message := next(t, stream); len(message.Bundles) != 2 {
			t.Errorf("there are %d bundles, want 2", len(message.Bundles))
		}
	})
	t.Run("refused", func(t *testing.T) {
		agent.Cache.Delete(web)
		_, err := stream.Recv()
		wantCode(t, err, codes.PermissionDenied)
		_, err = client(t, agent).FetchJWTSVID(call(t), &workload.JWTSVIDRequest{Audience: []string{"db"}})
		wantCode(t, err, codes.PermissionDenied)
	})
}

// audience: the token's audience is what was asked for, in that order, each
// value once.
func audience(t *testing.T) {
	agent := start(t, web)
	c := client(t, agent)
	for name, test := range map[string]struct{ ask, want []string }{
		"one":      {[]string{"db"}, []string{"db"}},
		"order":    {[]string{"b", "a", "c"}, []string{"b", "a", "c"}},
		"repeated": {[]string{"b", "a", "b", "a"}, []string{"b", "a"}},
		"case":     {[]string{"DB", "db", "db/"}, []string{"DB", "db", "db/"}},
	} {
		t.Run(name, func(t *testing.T) {
			message := must[*workload.JWTSVIDResponse](t)(c.FetchJWTSVID(call(t), &workload.JWTSVIDRequest{Audience: test.ask}))
			svid := must[*jwtsvid.SVID](t)(jwtsvid.ParseInsecure(message.Svids[0].Svid, test.want[:1]))
			if !slices.Equal(svid.Audience, test.want) {
				t.Errorf("asked for %q the token has %q, want %q", test.ask, svid.Audience, test.want)
			}
		})
	}
}

func oneIdentity(t *testing.T) {
	agent := start(t, web, bot)
	foreign := spiffeid.RequireFromPath(td, "/of-another-workload")
	agent.Cache.Put(agenttest.Entry{ID: foreign, Selector: other})
	c := client(t, agent)
	fetch := func(t *testing.T, id string) ([]string, error) {
		message, err := c.FetchJWTSVID(call(t), &workload.JWTSVIDRequest{Audience: []string{"db"}, SpiffeId: id})
		var ids []string
		for _, svid := range message.GetSvids() {
			ids = append(ids, svid.SpiffeId)
		}
		return ids, err
	}
	for name, test := range map[string]struct {
		id   string
		want codes.Code
	}{
		"another workload's":      {foreign.String(), codes.PermissionDenied},
		"nobody's":                {"spiffe://dev.test/nobody", codes.PermissionDenied},
		"another trust domain's":  {"spiffe://other.test/web", codes.PermissionDenied},
		"garbage":                 {"web", codes.InvalidArgument},
		"other scheme":            {"https://dev.test/web", codes.InvalidArgument},
		"upper-case trust domain": {"spiffe://DEV.test/web", codes.InvalidArgument},
		"trust domain only":       {"spiffe://dev.test", codes.InvalidArgument},
		"trailing slash":          {"spiffe://dev.test/web/", codes.InvalidArgument},
		"query":                   {"spiffe://dev.test/web?x", codes.InvalidArgument},
		"blank":                   {" ", codes.InvalidArgument},
	} {
		t.Run("refused/"+name, func(t *testing.T) {
			_, err := fetch(t, test.id)
			wantCode(t, err, test.want)
		})
	}
	for name, test := range map[string]struct {
		id   string
		want []string
	}{
		"all":        {"", []string{web.String(), bot.String()}},
		"the first":  {web.String(), []string{web.String()}},
		"the second": {bot.String(), []string{bot.String()}},
	} {
		t.Run("twin/"+name, func(t *testing.T) {
			if got := must[[]string](t)(fetch(t, test.id)); !slices.Equal(got, test.want) {
				t.Errorf("got tokens of %q, want %q", got, test.want)
			}
		})
	}
}

// jwtBundles: a JWK Set with the JWT keys only, each with its id and use.
func jwtBundles(t *testing.T) {
	agent := start(t, web)
	message := must[*workload.JWTBundlesResponse](t)(first(client(t, agent).FetchJWTBundles(call(t), &workload.JWTBundlesRequest{})))
	raw := message.Bundles["spiffe://dev.test"]
	var set struct{ Keys []map[string]any }
	if err := json.Unmarshal(raw, &set); err != nil {
		t.Fatal(err)
	}
	if len(set.Keys) != 1 {
		t.Fatalf("the bundle has %d keys, want the JWT key alone: %s", len(set.Keys), raw)
	}
	key := set.Keys[0]
	if key["kid"] != "jwt-1" || key["use"] != "jwt-svid" || key["x5c"] != nil || key["d"] != nil {
		t.Errorf("the key is %s", raw)
	}
	bundle := must[*jwtbundle.Bundle](t)(jwtbundle.Parse(td, raw))
	token := agent.Authority.Token(web, []string{"db"})
	must[*jwtsvid.SVID](t)(jwtsvid.ParseAndValidate(token, bundle, []string{"db"}))
}

func claims(t *testing.T) {
	agent := start(t, web)
	exp := time.Now().Add(time.Minute).Unix()
	token := agent.Authority.Sign(map[string]any{
		"sub": bot.String(), "aud": "db", "exp": exp,
		"n": int64(1)<<53 - 1, "half": 0.5, "nested": map[string]any{"list": []any{1, "two", true, nil}},
	})
	answer := must[*workload.ValidateJWTSVIDResponse](t)(client(t, agent).ValidateJWTSVID(call(t),
		&workload.ValidateJWTSVIDRequest{Audience: "db", Svid: token}))
	if answer.SpiffeId != bot.String() {
		t.Errorf("the ID is %q, want %q", answer.SpiffeId, bot)
	}
	got := answer.Claims.AsMap()
	for name, want := range map[string]any{
		"sub": bot.String(), "aud": []any{"db"}, "exp": float64(exp),
		"n": float64(int64(1)<<53 - 1), "half": 0.5, "nested": map[string]any{"list": []any{1.0, "two", true, nil}},
	} {
		if fmt.Sprint(got[name]) != fmt.Sprint(want) {
			t.Errorf("claim %s is %v, want %v", name, got[name], want)
		}
	}
	if seconds := int64(answer.Claims.Fields["exp"].GetNumberValue()); seconds != exp {
		t.Errorf("exp is %d, want %d", seconds, exp)
	}
}

// TestValidateSeesOnlyOwnBundles: a federated token is valid while the caller's
// bundles hold its trust domain, and only then.
func TestValidateSeesOnlyOwnBundles(t *testing.T) {
	agent := start(t, web)
	partner := federate(t, agent, "partner.test")
	token := partner.Token(spiffeid.RequireFromPath(partner.TrustDomain, "/x"), []string{"db"})
	req := &workload.ValidateJWTSVIDRequest{Audience: "db", Svid: token}
	_, err := client(t, agent).ValidateJWTSVID(call(t), req)
	wantCode(t, err, codes.OK)
	agent.Cache.DeleteBundle(partner.TrustDomain)
	_, err = client(t, agent).ValidateJWTSVID(call(t), req)
	wantCode(t, err, codes.InvalidArgument)
}

// TestGoSpiffeJWTSource fetches and validates by the library that most
// workloads use.
func TestGoSpiffeJWTSource(t *testing.T) {
	agent := start(t, web, bot)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	source := must[*workloadapi.JWTSource](t)(workloadapi.NewJWTSource(ctx,
		workloadapi.WithClientOptions(workloadapi.WithAddr(agent.Addr()))))
	defer source.Close()
	svid := must[*jwtsvid.SVID](t)(source.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "db", Subject: bot}))
	if svid.ID != bot {
		t.Errorf("the token is for %s, want %s", svid.ID, bot)
	}
	must[*jwtsvid.SVID](t)(jwtsvid.ParseAndValidate(svid.Marshal(), source, []string{"db"}))
	must[*jwtsvid.SVID](t)(workloadapi.ValidateJWTSVID(ctx, svid.Marshal(), "db", workloadapi.WithAddr(agent.Addr())))
}
