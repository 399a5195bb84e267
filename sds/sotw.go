package sds

import (
	"context"
	"slices"
	"strconv"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/authsec-ai/icp/identity"
)

// StreamSecrets serves the state-of-the-world variant: each answer holds every
// requested secret that there is.
func (s *Server) StreamSecrets(stream secretv3.SecretDiscoveryService_StreamSecretsServer) error {
	return converse(s, stream, &sotw{Server: s, stream: stream})
}

// sotw is one stream of the state-of-the-world variant.
type sotw struct {
	*Server
	stream secretv3.SecretDiscoveryService_StreamSecretsServer
	node   *corev3.Node // of the first request; later ones may leave it out

	names   []string // requested now
	named   bool     // some request named a secret: no names then means none
	nonce   int      // of the last answer; 0 before the first
	version string   // of the last answer
}

func (c *sotw) hear(req *discoveryv3.DiscoveryRequest) (answer bool, err error) {
	if err := checkType(req.GetTypeUrl()); err != nil {
		return false, err
	}
	if c.node == nil {
		c.node = req.GetNode()
	}
	names := wanted(req.GetResourceNames())
	reply := c.nonce > 0 && req.GetResponseNonce() != ""
	if reply && req.GetResponseNonce() != strconv.Itoa(c.nonce) {
		return false, nil // about an answer that a newer one has replaced
	}
	if reply && req.GetErrorDetail() != nil {
		c.refused(c.stream.Context(), names, req.GetErrorDetail().GetMessage())
	}
	changed := !slices.Equal(names, c.names)
	c.names, c.named = names, c.named || len(names) > 0
	return changed || !reply, nil
}

func (c *sotw) speak(update *Update, asked bool) error {
	r := c.resolver(update, c.node)
	names := c.names
	if !c.named {
		names = r.everything()
	}
	list, held, err := r.resolveAll(names)
	if err != nil {
		return err
	}
	if asked {
		c.logHeld(held)
	}
	version := versionOf(list)
	if len(list) == 0 || !asked && version == c.version {
		return nil
	}
	c.nonce++
	c.version = version
	c.answers.Add(c.stream.Context(), 1)
	return c.stream.Send(discoveryResponse(list, version, strconv.Itoa(c.nonce)))
}

func discoveryResponse(list []*resource, version, nonce string) *discoveryv3.DiscoveryResponse {
	bodies := make([]*anypb.Any, 0, len(list))
	for _, r := range list {
		bodies = append(bodies, r.body)
	}
	return &discoveryv3.DiscoveryResponse{TypeUrl: secretType, VersionInfo: version, Nonce: nonce, Resources: bodies}
}

// FetchSecrets answers one request with what there is now.
func (s *Server) FetchSecrets(ctx context.Context, req *discoveryv3.DiscoveryRequest) (*discoveryv3.DiscoveryResponse, error) {
	if err := checkType(req.GetTypeUrl()); err != nil {
		return nil, err
	}
	sub, err := s.attestor.Watch(ctx)
	if err != nil {
		return nil, err
	}
	defer sub.Close()
	var list []*resource
	err = s.answer(ctx, sub, func(update *Update, _ bool) error {
		r := s.resolver(update, req.GetNode())
		names := wanted(req.GetResourceNames())
		if len(names) == 0 {
			names = r.everything()
		}
		list, _, err = r.resolveAll(names)
		return err
	}, true)
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, status.Error(codes.NotFound, "none of the requested secrets is issued yet; use a stream to wait for them")
	}
	return discoveryResponse(list, versionOf(list), ""), nil
}

// checkType demands secrets; a request may leave the type out.
func checkType(url string) error {
	if url != "" && url != secretType {
		return status.Errorf(codes.InvalidArgument, "this service has resources of the type %s only", secretType)
	}
	return nil
}

// refused records that an Envoy did not take an answer. The same answer would
// fail again, so nothing is sent until the content changes.
func (s *Server) refused(ctx context.Context, names []string, reason string) {
	s.nacks.Add(ctx, 1)
	s.log.WarnContext(ctx, "Envoy refused secrets", "names", clipAll(names), "reason", identity.Clip(reason))
}

// logHeld says which names an Envoy waits for: its listener stays down, or
// without a certificate, until then.
func (s *Server) logHeld(names []string) {
	if len(names) > 0 {
		s.log.Info("secrets are held until they are issued", "names", clipAll(names))
	}
}

func clipAll(names []string) []string {
	clipped := make([]string, 0, len(names))
	for _, name := range names {
		clipped = append(clipped, identity.Clip(name))
	}
	return clipped
}
