package api_test

import (
	"crypto/x509"
	"testing"

	"github.com/authsec-ai/icp/internal/wire"
	"github.com/authsec-ai/icp/server/authn"
)

// BenchmarkAgent is what every request of an agent costs before it begins.
func BenchmarkAgent(b *testing.B) {
	w := newWorld(b)
	n := w.newTenant("acme").attest("n1")
	auth, err := authn.New(authn.Config{Store: w.store, Bundles: w.ca, Now: w.clock.Now})
	check(b, err)
	var chain []*x509.Certificate
	for _, der := range n.chain {
		cert, err := x509.ParseCertificate(der)
		check(b, err)
		chain = append(chain, cert)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := auth.Agent(b.Context(), chain); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSign is one X.509-SVID per call, with HTTP/2 and TLS on both sides.
func BenchmarkSign(b *testing.B) {
	w := newWorld(b)
	a := w.newTenant("acme")
	n := a.attest("n1")
	e := a.entry("n1", "/web", nil)
	item := wire.SignItem{EntryID: e.ID, EntryRevision: e.Revision, Selectors: e.Selectors, CSR: newCSR(b, newKey(b))}
	body := doc(wire.SignRequest{Items: []wire.SignItem{item}})
	b.ReportAllocs()
	for b.Loop() {
		n.do("POST", wire.PathSign, body).want(b, 200, nil)
	}
}
