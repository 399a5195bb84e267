package sds_test

import (
	"slices"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/authsec-ai/icp/agent/agenttest"
	"github.com/authsec-ai/icp/identity"
)

func ask(names ...string) *discoveryv3.DiscoveryRequest {
	return &discoveryv3.DiscoveryRequest{TypeUrl: secretType, ResourceNames: names}
}

// ack acknowledges an answer, and asks for names.
func ack(to *discoveryv3.DiscoveryResponse, names ...string) *discoveryv3.DiscoveryRequest {
	req := ask(names...)
	req.ResponseNonce, req.VersionInfo = to.Nonce, to.VersionInfo
	return req
}

func nack(to *discoveryv3.DiscoveryResponse, names ...string) *discoveryv3.DiscoveryRequest {
	req := ask(names...)
	req.ResponseNonce, req.ErrorDetail = to.Nonce, status.New(codes.InvalidArgument, "I do not like it").Proto()
	return req
}

func federate(t testing.TB, agent *agenttest.Agent, names ...string) {
	t.Helper()
	for _, name := range names {
		agent.Cache.SetBundle(agenttest.NewAuthority(t, name).Bundle())
	}
}

// TestNames asks for each name on a stream of its own.
func TestNames(t *testing.T) {
	t.Run("SD-1", func(t *testing.T) {
		agent := start(t, agenttest.Options{}, edge, web)
		federate(t, agent, "zeta.test", "alpha.test")
		agent.Cache.SetBundle(spiffebundle.New(spiffeid.RequireTrustDomainFromString("empty.test")))
		t.Run("twin", func(t *testing.T) { knownNames(t, agent) })
		t.Run("refused", func(t *testing.T) { impossibleNames(t, agent) })
	})
}

func knownNames(t *testing.T, agent *agenttest.Agent) {
	for name, want := range map[string]string{"default": edge.String(), edge.String(): edge.String(), web.String(): web.String()} {
		t.Run(name, func(t *testing.T) {
			stream := openSotW(t, agent)
			stream.send(ask(name))
			secret := only(t, stream.next())
			if got := identityIn(t, secret); secret.Name != name || got != want {
				t.Errorf("got secret %q of %q, want %q of %q", secret.Name, got, name, want)
			}
		})
	}
	for name, want := range map[string][]string{
		"ROOTCA":              {"edge.test"},
		"spiffe://edge.test":  {"edge.test"},
		"spiffe://alpha.test": {"alpha.test"},
		"ALL":                 {"alpha.test", "edge.test", "zeta.test"},
	} {
		t.Run(name, func(t *testing.T) {
			stream := openSotW(t, agent)
			stream.send(ask(name))
			secret := only(t, stream.next())
			if got := domainsIn(t, secret); secret.Name != name || !slices.Equal(got, want) {
				t.Errorf("got secret %q for %q, want %q for %q", secret.Name, got, name, want)
			}
		})
	}
}

func impossibleNames(t *testing.T, agent *agenttest.Agent) {
	for _, name := range []string{
		"file-root:system", "Default", "rootca", "spiffe://edge.test/edge/", "spiffe://EDGE.test/edge",
		"spiffe://alpha.test/edge", "spiffe://nowhere.test/edge", "https://edge.test/edge", "*",
		strings.Repeat("x", 5000),
	} {
		t.Run(identity.Clip(name), func(t *testing.T) {
			stream := openSotW(t, agent)
			stream.send(ask(name))
			stream.wantEnd(codes.InvalidArgument)
		})
	}
}

// TestSeveralNames: one request may name what other agents refuse together.
func TestSeveralNames(t *testing.T) {
	agent := start(t, agenttest.Options{}, edge, web)
	for title, names := range map[string][]string{
		"identity twice":   {"default", edge.String()},
		"bundle twice":     {"ROOTCA", "ALL", "spiffe://edge.test"},
		"repeated":         {"default", "ROOTCA"},
		"in another order": {"ROOTCA", "default"},
	} {
		t.Run(title, func(t *testing.T) {
			stream := openSotW(t, agent)
			stream.send(ask(append(names, names[0])...))
			if got := namesIn(t, stream.next()); !slices.Equal(got, names) {
				t.Errorf("got %q, want %q", got, names)
			}
		})
	}
	t.Run("none is everything", func(t *testing.T) {
		want := []string{edge.String(), web.String(), "spiffe://edge.test"}
		for _, names := range [][]string{nil, {""}} {
			stream := openSotW(t, agent)
			stream.send(ask(names...))
			if got := namesIn(t, stream.next()); !slices.Equal(got, want) {
				t.Errorf("names %q: got %q, want %q", names, got, want)
			}
		}
	})
	t.Run("none after some is nothing", func(t *testing.T) {
		stream := openSotW(t, agent)
		stream.send(ask("default"))
		first := stream.next()
		stream.send(ack(first))
		stream.send(ack(first, "ROOTCA"))
		if got := namesIn(t, stream.next()); !slices.Equal(got, []string{"ROOTCA"}) {
			t.Errorf("got %q", got)
		}
	})
	t.Run("known ones come though others are held", func(t *testing.T) {
		stream := openSotW(t, agent)
		stream.send(ask("spiffe://edge.test/later", "default"))
		if got := namesIn(t, stream.next()); !slices.Equal(got, []string{"default"}) {
			t.Errorf("got %q", got)
		}
	})
}

func namesIn(t testing.TB, resp *discoveryv3.DiscoveryResponse) []string {
	t.Helper()
	var names []string
	for _, body := range resp.Resources {
		names = append(names, secretOf(t, body).Name)
	}
	return names
}

// TestConversation has the rules of requests and answers. A later request that
// must be answered proves that an earlier one was not.
func TestConversation(t *testing.T) {
	agent := start(t, agenttest.Options{}, edge, web)
	// opened gives a stream with its first answer.
	opened := func(t *testing.T) (sotwClient, *discoveryv3.DiscoveryResponse) {
		stream := openSotW(t, agent)
		stream.send(ask("default"))
		return stream, stream.next()
	}
	wantNext := func(t *testing.T, stream sotwClient, nonce, name string) *discoveryv3.DiscoveryResponse {
		t.Helper()
		resp := stream.next()
		if secret := only(t, resp); resp.Nonce != nonce || secret.Name != name {
			t.Errorf("got answer %s with %s, want answer %s with %s", resp.Nonce, secret.Name, nonce, name)
		}
		return resp
	}
	t.Run("an ACK is not answered", func(t *testing.T) {
		stream, first := opened(t)
		stream.send(ack(first, "default"))
		stream.send(ack(first, "ROOTCA"))
		wantNext(t, stream, "2", "ROOTCA")
	})
	t.Run("a NACK is not answered", func(t *testing.T) {
		stream, first := opened(t)
		stream.send(nack(first, "default"))
		stream.send(nack(first, "default"))
		stream.send(ack(first, "ROOTCA"))
		wantNext(t, stream, "2", "ROOTCA")
		if log := agent.Log(); !strings.Contains(log, "I do not like it") {
			t.Errorf("the log lacks the reason: %s", log)
		}
	})
	t.Run("after a NACK comes the next change", func(t *testing.T) {
		stream, first := opened(t)
		stream.send(nack(first, "default"))
		put(agent, edge)
		if second := wantNext(t, stream, "2", "default"); second.VersionInfo == first.VersionInfo {
			t.Error("the same content came again")
		}
	})
	t.Run("a NACK that asks for another name is answered", func(t *testing.T) {
		stream, first := opened(t)
		stream.send(nack(first, "ROOTCA"))
		wantNext(t, stream, "2", "ROOTCA")
	})
	t.Run("a stale nonce is ignored", func(t *testing.T) {
		stream, first := opened(t)
		put(agent, edge)
		second := wantNext(t, stream, "2", "default")
		stream.send(ack(first, "ALL"))
		stream.send(ack(second, "ROOTCA"))
		wantNext(t, stream, "3", "ROOTCA")
	})
	t.Run("a reconnect is answered", func(t *testing.T) {
		_, first := opened(t)
		stream := openSotW(t, agent)
		again := ask("default")
		again.VersionInfo = first.VersionInfo
		stream.send(again)
		if resp := wantNext(t, stream, "1", "default"); resp.VersionInfo != first.VersionInfo {
			t.Errorf("the same content has version %s, then %s", first.VersionInfo, resp.VersionInfo)
		}
	})
	t.Run("a foreign nonce first is answered", func(t *testing.T) {
		stream := openSotW(t, agent)
		again := ask("default")
		again.ResponseNonce = "77"
		stream.send(again)
		wantNext(t, stream, "1", "default")
	})
	t.Run("another type is refused", func(t *testing.T) {
		stream, _ := opened(t)
		stream.send(&discoveryv3.DiscoveryRequest{TypeUrl: "type.googleapis.com/envoy.config.cluster.v3.Cluster"})
		stream.wantEnd(codes.InvalidArgument)
	})
}

// TestPush has changes reach an open stream, and what is no change not.
func TestPush(t *testing.T) {
	t.Run("SD-2", func(t *testing.T) {
		agent := start(t, agenttest.Options{}, edge)
		stream := openSotW(t, agent)
		stream.send(ask("default"))
		version := stream.next().VersionInfo
		for range 3 {
			agent.Cache.Wake()
			put(agent, edge)
			resp := stream.next()
			if resp.VersionInfo == version {
				t.Fatal("unchanged content was pushed")
			}
			version = resp.VersionInfo
			identityIn(t, only(t, resp))
			stream.send(ack(resp, "default"))
		}
	})
	t.Run("a bundle", func(t *testing.T) {
		agent := start(t, agenttest.Options{}, edge)
		stream := openSotW(t, agent)
		stream.send(ask("ALL"))
		stream.next()
		federate(t, agent, "partner.test")
		if got := domainsIn(t, only(t, stream.next())); !slices.Equal(got, []string{"edge.test", "partner.test"}) {
			t.Errorf("after federation ALL has %q", got)
		}
		agent.Cache.DeleteBundle(spiffeid.RequireTrustDomainFromString("partner.test"))
		if got := domainsIn(t, only(t, stream.next())); !slices.Equal(got, []string{"edge.test"}) {
			t.Errorf("after its end ALL has %q", got)
		}
	})
	t.Run("another default", func(t *testing.T) {
		agent := start(t, agenttest.Options{}, edge, web)
		stream := openSotW(t, agent)
		stream.send(ask("default"))
		stream.next()
		agent.Cache.Delete(edge)
		if got := identityIn(t, only(t, stream.next())); got != web.String() {
			t.Errorf("after the first identity went the default is %q, want %q", got, web)
		}
		agent.Cache.Delete(web)
		stream.wantEnd(codes.PermissionDenied)
	})
	t.Run("not while the state is unavailable", func(t *testing.T) {
		agent := start(t, agenttest.Options{}, edge)
		stream := openSotW(t, agent)
		agent.Cache.Fail(identity.Errorf(identity.Unavailable, "the server is away"))
		stream.send(ask("default"))
		agent.Cache.Fail(nil)
		identityIn(t, only(t, stream.next()))
	})
}

// TestHeld: an own ID that is not issued yet is waited for; so is federation.
func TestHeld(t *testing.T) {
	t.Run("twin", func(t *testing.T) {
		agent := start(t, agenttest.Options{}, edge)
		stream := openSotW(t, agent)
		stream.send(ask(web.String(), "spiffe://partner.test"))
		put(agent, edge) // no answer to be had from this
		put(agent, web)
		if got := namesIn(t, stream.next()); !slices.Equal(got, []string{web.String()}) {
			t.Errorf("got %q", got)
		}
		federate(t, agent, "partner.test")
		if got := namesIn(t, stream.next()); !slices.Equal(got, []string{web.String(), "spiffe://partner.test"}) {
			t.Errorf("got %q", got)
		}
		if log := agent.Log(); !strings.Contains(log, "held until they are issued") {
			t.Errorf("the log does not say what is held: %s", log)
		}
	})
	t.Run("refused", func(t *testing.T) {
		agent := start(t, agenttest.Options{RefuseUnissued: true}, edge)
		stream := openSotW(t, agent)
		stream.send(ask(web.String()))
		stream.wantEnd(codes.InvalidArgument)
	})
}

// TestPlainValidation: an Envoy without the SPIFFE validator gets CAs, and says
// so in its first request only.
func TestPlainValidation(t *testing.T) {
	for title, test := range map[string]struct {
		options agenttest.Options
		value   *structpb.Value
		plain   bool
	}{
		"flag":            {value: structpb.NewBoolValue(true), plain: true},
		"text":            {value: structpb.NewStringValue("true"), plain: true},
		"configured":      {options: agenttest.Options{PlainValidation: true}, plain: true},
		"flag false":      {value: structpb.NewBoolValue(false)},
		"text false":      {value: structpb.NewStringValue("false")},
		"something else":  {value: structpb.NewNumberValue(1)},
		"nothing at all ": {},
	} {
		t.Run(title, func(t *testing.T) {
			agent := start(t, test.options, edge)
			stream := openSotW(t, agent)
			req := ask("ROOTCA")
			if test.value != nil {
				req.Node = &corev3.Node{Metadata: &structpb.Struct{
					Fields: map[string]*structpb.Value{"disable_spiffe_cert_validation": test.value},
				}}
			}
			stream.send(req)
			first := stream.next()
			context := only(t, first).GetValidationContext()
			if plain := context.GetTrustedCa() != nil; plain != test.plain || plain == (context.GetCustomValidatorConfig() != nil) {
				t.Errorf("plain CAs: %t, want %t", plain, test.plain)
			}
			stream.send(ack(first, "ALL")) // without node
			if test.plain {
				stream.wantEnd(codes.InvalidArgument)
			} else {
				domainsIn(t, only(t, stream.next()))
			}
		})
	}
}

// TestFetch answers without a stream.
func TestFetch(t *testing.T) {
	agent := start(t, agenttest.Options{}, edge)
	c := client(t, agent)
	t.Run("refused/held", func(t *testing.T) {
		_, err := c.FetchSecrets(limited(t), ask(web.String()))
		wantCode(t, err, codes.NotFound)
	})
	t.Run("refused/impossible", func(t *testing.T) {
		_, err := c.FetchSecrets(limited(t), ask("file-root:system"))
		wantCode(t, err, codes.InvalidArgument)
	})
	t.Run("refused/type", func(t *testing.T) {
		req := ask("default")
		req.TypeUrl = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
		_, err := c.FetchSecrets(limited(t), req)
		wantCode(t, err, codes.InvalidArgument)
	})
	t.Run("twin", func(t *testing.T) {
		resp, err := c.FetchSecrets(limited(t), ask("default", "ROOTCA"))
		wantCode(t, err, codes.OK)
		if got := namesIn(t, resp); !slices.Equal(got, []string{"default", "ROOTCA"}) {
			t.Errorf("got %q", got)
		}
		resp, err = c.FetchSecrets(limited(t), ask())
		wantCode(t, err, codes.OK)
		if got := namesIn(t, resp); !slices.Equal(got, []string{edge.String(), "spiffe://edge.test"}) {
			t.Errorf("got %q", got)
		}
	})
}

// TestAttestation: who has no identity gets no secret, in any variant.
func TestAttestation(t *testing.T) {
	t.Run("SD-3", func(t *testing.T) {
		agent := start(t, agenttest.Options{})
		agent.Cache.Put(agenttest.Entry{ID: edge, Selector: "unix:uid:4242424"})
		calls := map[string]func(t *testing.T, want codes.Code){
			"StreamSecrets": func(t *testing.T, want codes.Code) {
				stream := openSotW(t, agent)
				stream.send(ask("default"))
				stream.wantEnd(want)
			},
			"DeltaSecrets": func(t *testing.T, want codes.Code) {
				stream := openDelta(t, agent)
				stream.send(&discoveryv3.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{"default"}})
				stream.wantEnd(want)
			},
			"FetchSecrets": func(t *testing.T, want codes.Code) {
				_, err := client(t, agent).FetchSecrets(limited(t), ask("default"))
				wantCode(t, err, want)
			},
		}
		for name, call := range calls {
			t.Run("refused/"+name, func(t *testing.T) { call(t, codes.PermissionDenied) })
		}
		put(agent, web)
		for name, call := range calls {
			t.Run("twin/"+name, func(t *testing.T) { call(t, codes.OK) })
		}
		agent.Cache.SetReady(false)
		for name, call := range calls {
			t.Run("not ready/"+name, func(t *testing.T) { call(t, codes.Unavailable) })
		}
	})
}
