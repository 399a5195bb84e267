package envoy

import (
	"fmt"
	"os"
	"testing"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/authsec-ai/icp/e2e/devtest"
	"github.com/authsec-ai/icp/e2e/stage"
)

// live is the whole product. Envoy's SVIDs live for seconds, so they rotate by
// themselves.
type live struct{ *devtest.Dev }

const (
	edgePath = "/edge"
	shortTTL = "6s"
)

func newLive(t *testing.T) plane {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("this test runs Envoy as another user than itself: run it as root")
	}
	p := live{devtest.Start(t)}
	p.Entry(t, edgePath, int(envoyUID()), shortTTL)
	return p
}

func (p live) Socket() string { return p.AgentSocket[len("unix://"):] }

func (p live) EnvoyID() spiffeid.ID { return spiffeid.RequireFromString(p.ID(edgePath)) }

func (p live) Entitle(t *testing.T, id spiffeid.ID) {
	p.Entry(t, id.Path(), int(envoyUID()), shortTTL)
}

// Rotate has nothing to do.
func (live) Rotate(*testing.T) {}

// SVID registers an ID for this process, and fetches it.
func (p live) SVID(t *testing.T, path string) *x509svid.SVID {
	t.Helper()
	var found *x509svid.SVID
	find := func() error {
		svids, err := p.Workload(t).FetchX509SVIDs(t.Context())
		if err != nil {
			return err
		}
		for _, svid := range svids {
			if svid.ID.Path() == path {
				found = svid
				return nil
			}
		}
		return fmt.Errorf("%s is not among %d SVIDs", path, len(svids))
	}
	if find() != nil { // not asked for before
		p.Entry(t, path, os.Getuid(), "")
	}
	stage.Eventually(t, patience, find)
	return found
}

func (p live) Bundle(t *testing.T) *x509bundle.Bundle {
	t.Helper()
	bundles, err := p.Workload(t).FetchX509Bundles(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := bundles.GetX509BundleForTrustDomain(p.EnvoyID().TrustDomain())
	if err != nil {
		t.Fatal(err)
	}
	return bundle
}
