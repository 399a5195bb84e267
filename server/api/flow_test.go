package api_test

import (
	"testing"

	"github.com/authsec-ai/icp/internal/wire"
)

func TestFlow(t *testing.T) {
	w := newWorld(t)
	a := w.newTenant("acme")
	n := a.attest("n1")
	e := a.entry("n1", "/web", nil)
	s := open[wire.SyncFrame](n.client, wire.PathSync)
	f := s.next(func(f wire.SyncFrame) bool { return f.Done })
	if !f.Reset || len(f.Upserts) != 1 || f.Upserts[0].ID != e.ID || len(f.Bundles) != 1 {
		t.Fatalf("%+v", f)
	}
	chain, _, err := n.svid(e)
	check(t, err)
	if len(chain) != 2 {
		t.Fatal(len(chain))
	}
	n.renew().want(t, 200, nil)
}
