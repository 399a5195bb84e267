package svid

import (
	"crypto/x509"
	"slices"
	"testing"
)

// named makes the parts of a certificate that lineUp looks at.
func named(subject, issuer, keyID, wants string) *x509.Certificate {
	return &x509.Certificate{
		RawSubject: []byte(subject), RawIssuer: []byte(issuer), SubjectKeyId: []byte(keyID), AuthorityKeyId: []byte(wants),
	}
}

// However a peer's certificates name each other, at most one stands at each
// step, so that path building has nothing to branch into.
func TestLineUp(t *testing.T) {
	leaf := named("leaf", "A", "", "2")
	a1, a2, again := named("A", "B", "1", "9"), named("A", "B", "2", "9"), named("A", "A", "2", "")
	b, b9, back := named("B", "C", "", ""), named("B", "C", "9", ""), named("B", "A", "9", "")
	stranger := named("X", "Y", "", "")
	type certs = []*x509.Certificate
	for name, c := range map[string]struct{ issuers, want certs }{
		"in-order":                 {certs{a2, b}, certs{a2, b}},
		"any-order":                {certs{b, stranger, a2}, certs{a2, b}},
		"key-id-chooses":           {certs{a1, a2, b, b9}, certs{a2, b9}},
		"first-without-the-key-id": {certs{a1, b, b}, certs{a1, b}},
		"nothing-fits":             {certs{stranger}, nil},
		"self-issued":              {certs{again, again}, certs{again}},
		"circle":                   {certs{a2, back}, certs{a2, back}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := lineUp(leaf, c.issuers); !slices.Equal(got, c.want) {
				t.Errorf("got %d certificates, want %d", len(got), len(c.want))
			}
		})
	}
	same := slices.Repeat([]*x509.Certificate{named("A", "A", "", "")}, 7)
	if got := lineUp(leaf, same); len(got) != 1 {
		t.Errorf("of seven issuers of one name %d were taken", len(got))
	}
}
