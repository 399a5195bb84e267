package sds

import (
	"maps"
	"slices"
	"strconv"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
)

// wildcard asks for everything in the incremental variant.
const wildcard = "*"

// DeltaSecrets serves the incremental variant: each answer holds what changed
// since the last one.
func (s *Server) DeltaSecrets(stream secretv3.SecretDiscoveryService_DeltaSecretsServer) error {
	return converse(s, stream, &delta{
		Server:  s,
		stream:  stream,
		names:   map[string]bool{},
		has:     map[string]string{},
		repeats: map[string]bool{},
	})
}

// delta is one stream of the incremental variant.
type delta struct {
	*Server
	stream secretv3.SecretDiscoveryService_DeltaSecretsServer
	node   *corev3.Node

	heard   bool              // the first request has come
	all     bool              // subscribed to everything
	names   map[string]bool   // subscribed by name
	has     map[string]string // version of each secret that the client holds
	repeats map[string]bool   // to be sent again although the client holds it
	nonce   int
}

func (c *delta) hear(req *discoveryv3.DeltaDiscoveryRequest) (answer bool, err error) {
	if err := checkType(req.GetTypeUrl()); err != nil {
		return false, err
	}
	first := !c.heard
	c.heard = true
	if c.node == nil {
		c.node = req.GetNode()
	}
	if req.GetErrorDetail() != nil {
		c.refused(c.stream.Context(), slices.Sorted(maps.Keys(c.names)), req.GetErrorDetail().GetMessage())
	}
	subscribe := wanted(req.GetResourceNamesSubscribe())
	if first {
		maps.Copy(c.has, req.GetInitialResourceVersions())
		c.all = len(subscribe) == 0
	}
	c.subscribe(subscribe, first)
	c.unsubscribe(req.GetResourceNamesUnsubscribe())
	return first || len(subscribe) > 0, nil
}

// subscribe adds names. After the first request a client that names a secret
// again may have lost it, and gets it again.
func (c *delta) subscribe(names []string, first bool) {
	for _, name := range names {
		if name == wildcard {
			c.all = true
			continue
		}
		c.names[name] = true
		if !first {
			c.repeats[name] = true
		}
	}
}

func (c *delta) unsubscribe(names []string) {
	for _, name := range names {
		if name == wildcard {
			c.all = false
			maps.DeleteFunc(c.has, func(held, _ string) bool { return !c.names[held] })
			continue
		}
		delete(c.names, name)
		delete(c.has, name)
		delete(c.repeats, name)
	}
}

func (c *delta) speak(update *Update, asked bool) error {
	r := c.resolver(update, c.node)
	names := slices.Sorted(maps.Keys(c.names))
	if c.all {
		names = append(names, r.everything()...)
	}
	list, held, err := r.resolveAll(names)
	if err != nil {
		return err
	}
	if asked {
		c.logHeld(held)
	}
	fresh, gone := c.changes(list)
	if len(fresh) == 0 && len(gone) == 0 {
		return nil
	}
	c.nonce++
	c.answers.Add(c.stream.Context(), 1)
	return c.stream.Send(&discoveryv3.DeltaDiscoveryResponse{
		TypeUrl:           secretType,
		SystemVersionInfo: versionOf(list),
		Nonce:             strconv.Itoa(c.nonce),
		Resources:         fresh,
		RemovedResources:  gone,
	})
}

// changes gives what the client lacks of list, and which secrets it holds that
// are in it no more, and takes both as sent.
func (c *delta) changes(list []*resource) (fresh []*discoveryv3.Resource, gone []string) {
	now := make(map[string]string, len(list))
	for _, r := range list {
		now[r.name] = r.version
		if c.has[r.name] != r.version || c.repeats[r.name] {
			fresh = append(fresh, &discoveryv3.Resource{Name: r.name, Version: r.version, Resource: r.body})
		}
		delete(c.repeats, r.name)
	}
	for name := range c.has {
		if _, ok := now[name]; !ok {
			gone = append(gone, name)
		}
	}
	slices.Sort(gone)
	c.has = now
	return fresh, gone
}
