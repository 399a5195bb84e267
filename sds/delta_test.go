package sds_test

import (
	"slices"
	"testing"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/authsec-ai/icp/agent/agenttest"
)

func wantCode(t testing.TB, err error, want codes.Code) {
	t.Helper()
	if got := status.Code(err); got != want {
		t.Errorf("answered %s (%v), want %s", got, err, want)
	}
}

func subscribe(names ...string) *discoveryv3.DeltaDiscoveryRequest {
	return &discoveryv3.DeltaDiscoveryRequest{TypeUrl: secretType, ResourceNamesSubscribe: names}
}

func unsubscribe(names ...string) *discoveryv3.DeltaDiscoveryRequest {
	return &discoveryv3.DeltaDiscoveryRequest{TypeUrl: secretType, ResourceNamesUnsubscribe: names}
}

// wantDelta wants an answer of these secrets and removals.
func wantDelta(t testing.TB, stream deltaClient, fresh, gone []string) *discoveryv3.DeltaDiscoveryResponse {
	t.Helper()
	resp := stream.next()
	var names []string
	for _, r := range resp.Resources {
		if secret := secretOf(t, r.Resource); secret.Name != r.Name || r.Version == "" {
			t.Errorf("resource %q (version %q) holds the secret %q", r.Name, r.Version, secret.Name)
		}
		names = append(names, r.Name)
	}
	slices.Sort(names)
	if !slices.Equal(names, fresh) || !slices.Equal(resp.RemovedResources, gone) {
		t.Fatalf("got %q and the removal of %q, want %q and %q", names, resp.RemovedResources, fresh, gone)
	}
	return resp
}

// TestDelta has the rules of the incremental variant.
func TestDelta(t *testing.T) {
	t.Run("only what changed", func(t *testing.T) {
		agent := start(t, agenttest.Options{}, edge, web)
		stream := openDelta(t, agent)
		stream.send(subscribe("default", "ROOTCA", web.String()))
		first := wantDelta(t, stream, []string{"ROOTCA", "default", web.String()}, nil)
		stream.send(&discoveryv3.DeltaDiscoveryRequest{ResponseNonce: first.Nonce})
		agent.Cache.Wake()
		put(agent, web)
		wantDelta(t, stream, []string{web.String()}, nil)
	})
	t.Run("a name more, a name less", func(t *testing.T) {
		agent := start(t, agenttest.Options{}, edge, web)
		stream := openDelta(t, agent)
		stream.send(subscribe("default"))
		wantDelta(t, stream, []string{"default"}, nil)
		stream.send(subscribe("ROOTCA"))
		wantDelta(t, stream, []string{"ROOTCA"}, nil)
		stream.send(unsubscribe("default"))
		stream.send(subscribe(web.String()))
		wantDelta(t, stream, []string{web.String()}, nil)
		put(agent, edge) // nobody asks for it any more
		put(agent, web)
		wantDelta(t, stream, []string{web.String()}, nil)
	})
	t.Run("asked again is sent again", func(t *testing.T) {
		stream := openDelta(t, start(t, agenttest.Options{}, edge))
		stream.send(subscribe("default"))
		wantDelta(t, stream, []string{"default"}, nil)
		stream.send(subscribe("default"))
		wantDelta(t, stream, []string{"default"}, nil)
	})
	t.Run("a reconnect is spared what it has", func(t *testing.T) {
		agent := start(t, agenttest.Options{}, edge)
		stream := openDelta(t, agent)
		stream.send(subscribe("default", "ROOTCA"))
		first := wantDelta(t, stream, []string{"ROOTCA", "default"}, nil)
		again := subscribe("default", "ROOTCA")
		again.InitialResourceVersions = map[string]string{"default": "an older one"}
		for _, r := range first.Resources {
			if r.Name == "ROOTCA" {
				again.InitialResourceVersions[r.Name] = r.Version
			}
		}
		stream = openDelta(t, agent)
		stream.send(again)
		wantDelta(t, stream, []string{"default"}, nil)
	})
	t.Run("a NACK is not answered", func(t *testing.T) {
		agent := start(t, agenttest.Options{}, edge, web)
		stream := openDelta(t, agent)
		stream.send(subscribe("default"))
		first := wantDelta(t, stream, []string{"default"}, nil)
		stream.send(&discoveryv3.DeltaDiscoveryRequest{ResponseNonce: first.Nonce, ErrorDetail: status.New(codes.InvalidArgument, "no").Proto()})
		stream.send(subscribe("ROOTCA"))
		wantDelta(t, stream, []string{"ROOTCA"}, nil)
		put(agent, edge)
		wantDelta(t, stream, []string{"default"}, nil)
	})
	t.Run("held, issued, gone", func(t *testing.T) {
		agent := start(t, agenttest.Options{}, edge)
		stream := openDelta(t, agent)
		stream.send(subscribe(web.String()))
		put(agent, web)
		wantDelta(t, stream, []string{web.String()}, nil)
		agent.Cache.Delete(web)
		wantDelta(t, stream, nil, []string{web.String()})
		put(agent, web)
		wantDelta(t, stream, []string{web.String()}, nil)
		agent.Cache.Delete(web)
		agent.Cache.Delete(edge)
		if _, err := drain(stream); status.Code(err) != codes.PermissionDenied {
			t.Errorf("the stream ends with %v", err)
		}
	})
	t.Run("everything", func(t *testing.T) {
		agent := start(t, agenttest.Options{}, edge)
		for _, req := range []*discoveryv3.DeltaDiscoveryRequest{subscribe(), subscribe("*")} {
			stream := openDelta(t, agent)
			stream.send(req)
			wantDelta(t, stream, []string{"spiffe://edge.test", edge.String()}, nil)
			put(agent, web)
			wantDelta(t, stream, []string{web.String()}, nil)
			agent.Cache.Delete(web)
			wantDelta(t, stream, nil, []string{web.String()})
		}
		stream := openDelta(t, agent)
		stream.send(subscribe("*", "default"))
		wantDelta(t, stream, []string{"default", "spiffe://edge.test", edge.String()}, nil)
		stream.send(unsubscribe("*"))
		stream.send(subscribe("ROOTCA")) // answered after the other is heard
		wantDelta(t, stream, []string{"ROOTCA"}, nil)
		put(agent, edge)
		wantDelta(t, stream, []string{"default"}, nil)
	})
	t.Run("impossible names and types", func(t *testing.T) {
		agent := start(t, agenttest.Options{}, edge)
		stream := openDelta(t, agent)
		stream.send(subscribe("file-root:system"))
		stream.wantEnd(codes.InvalidArgument)
		stream = openDelta(t, agent)
		stream.send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: "type.googleapis.com/envoy.config.cluster.v3.Cluster"})
		stream.wantEnd(codes.InvalidArgument)
	})
}

// drain reads to the end of a stream.
func drain(stream deltaClient) (n int, err error) {
	for ; err == nil; n++ {
		_, err = stream.stream.Recv()
	}
	return n, err
}
