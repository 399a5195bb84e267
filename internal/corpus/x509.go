package corpus

import (
	"crypto"
	"slices"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/authsec-ai/icp/identity/svid"
)

// Case is one certificate chain and what must become of it.
type Case struct {
	Row  string // "V-07"
	Name string // of the defect, "embedded-NUL"

	Chain   [][]byte      // DER, leaf first, as a peer sends it; may be empty
	Key     crypto.Signer // of the leaf; nil if no handshake can be made with it
	Bundles x509bundle.Source
	Options svid.X509Options // Now is the world's

	// Exact says that the outcome holds at Options.Now to the second, or hangs
	// on another option: a test with the real clock leaves the case out.
	Exact bool

	Want svid.Reason // "" means accepted
	ID   spiffeid.ID // that an accepted chain proves
	Twin *Case       // the same without the defect, accepted; nil if the case is accepted itself
}

// edit changes a leaf.
type edit = func(*Template)

// X509 gives every case, row after row. Look at Err after it.
func (w *World) X509() []Case {
	return slices.Concat(
		w.sanCases(), w.idCases(), w.leafCases(), w.timeCases(),
		w.domainCases(), w.issuerCases(), w.constraintCases(),
		w.robustCases(), w.derCases(), w.keyCases(), w.bombCases(),
		w.ownRuleCases(),
	)
}

// chain is a good case around a chain.
func (w *World) chain(certs ...[]byte) Case {
	return Case{
		Chain: certs, Key: w.leafKey, Bundles: w.Bundles,
		Options: svid.X509Options{Now: w.Now}, ID: w.id(w.A.ID("/web")),
	}
}

func (w *World) id(text string) spiffeid.ID {
	id, err := spiffeid.FromString(text)
	w.note(err)
	return id
}

// leaf is a case with a leaf of A, changed by e.
func (w *World) leaf(e edit) Case {
	return w.chain(w.Leaf(w.A.Issuing, e), w.A.Issuing.DER)
}

// refused joins a bad case to its twin.
func refused(row, name string, want svid.Reason, bad, twin Case) Case {
	twin.Row, twin.Name = row, name
	bad.Row, bad.Name, bad.Want, bad.Twin = row, name, want, &twin
	bad.ID = spiffeid.ID{}
	return bad
}

// accepted names a good case that is a row of its own.
func accepted(row, name string, good Case) Case {
	good.Row, good.Name = row, name
	return good
}

// badLeaf is refused for an edit; its twin is the leaf without it.
func (w *World) badLeaf(row, name string, want svid.Reason, e edit) Case {
	return refused(row, name, want, w.leaf(e), w.leaf(nil))
}
