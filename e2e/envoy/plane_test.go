package envoy

import (
	"crypto/tls"
	"fmt"
	"os"
	"testing"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/authsec-ai/icp/agent/agenttest"
)

// plane is an identity control plane as these tests see it.
type plane interface {
	Socket() string // of the agent
	// EnvoyID is the ID of processes of envoyUID.
	EnvoyID() spiffeid.ID
	// Entitle gives processes of envoyUID another identity.
	Entitle(t *testing.T, id spiffeid.ID)
	// Rotate has Envoy's identity get a new SVID soon.
	Rotate(t *testing.T)
	// SVID gives an SVID of the plane's trust domain for a client.
	SVID(t *testing.T, path string) *x509svid.SVID
	// Bundle verifies the plane's SVIDs.
	Bundle(t *testing.T) *x509bundle.Bundle
}

// The users that Envoy runs as. Only root can choose; anybody else's Envoy runs
// as the tester.
const (
	nobody   = 65534
	stranger = 65533 // has no identity
)

func envoyUID() uint32 {
	if os.Getuid() == 0 {
		return nobody
	}
	return uint32(os.Getuid())
}

// memory is a plane without a server.
type memory struct{ *agenttest.Agent }

const trustDomain = "edge.test"

func newMemory(t *testing.T) plane {
	t.Helper()
	p := memory{agenttest.Start(t, trustDomain, agenttest.Options{})}
	p.Rotate(t)
	return p
}

func (p memory) Socket() string { return p.Agent.Socket }

func (p memory) EnvoyID() spiffeid.ID {
	return spiffeid.RequireFromPath(p.Authority.TrustDomain, "/edge")
}

func (p memory) Entitle(_ *testing.T, id spiffeid.ID) {
	p.Cache.Put(agenttest.Entry{ID: id, Selector: fmt.Sprintf("unix:uid:%d", envoyUID())})
}

func (p memory) Rotate(t *testing.T) { p.Entitle(t, p.EnvoyID()) }

func (p memory) SVID(_ *testing.T, path string) *x509svid.SVID {
	return p.Authority.Issue(spiffeid.RequireFromPath(p.Authority.TrustDomain, path))
}

func (p memory) Bundle(*testing.T) *x509bundle.Bundle { return p.Authority.Bundle().X509Bundle() }

// clientConfig is for a client with svid that demands the server to be server.
func clientConfig(svid *x509svid.SVID, bundle *x509bundle.Bundle, server spiffeid.ID) *tls.Config {
	return tlsconfig.MTLSClientConfig(svid, bundle, tlsconfig.AuthorizeID(server))
}
