package corpus

import (
	"crypto"
	"crypto/elliptic"
	"fmt"
	"slices"
	"time"

	"github.com/authsec-ai/icp/identity/svid"
)

// domainCases are V-25 to V-29: whose signature counts for whose name.
func (w *World) domainCases() []Case {
	byB := w.Leaf(w.B.Issuing, nil) // says spiffe://a.example/web
	own := &Issuer{Name: name("workload"), Key: w.leafKey}
	selfSigned := w.chain(w.Leaf(own, nil))
	foreign := w.chain(byB, w.B.Issuing.DER)
	onlyA := foreign
	onlyA.Bundles = w.anchors(w.A.TrustDomain, w.A.Anchor.DER)
	foreignWithAnchor := w.chain(byB, w.B.Issuing.DER, w.B.Anchor.DER)
	return append([]Case{
		refused("V-25", "self-signed", svid.Untrusted, selfSigned, w.leaf(nil)),
		refused("V-26", "signed-by-B", svid.Untrusted, onlyA, w.leaf(nil)),
		refused("V-27", "signed-by-B-whose-bundle-is-known", svid.Untrusted, foreign, w.leaf(nil)),
		refused("V-27", "with-the-anchor-of-B-sent-along", svid.Untrusted, foreignWithAnchor, w.leaf(nil)),
		accepted("V-27", "B-speaks-for-B", w.leafOfB()),
		w.idCase("V-28", "unknown-trust-domain", svid.UnknownDomain, "spiffe://c.example/web", w.A.ID("/web")),
	}, w.crossCases()...)
}

func (w *World) leafOfB() Case {
	id := w.B.ID("/web")
	c := w.chain(w.Leaf(w.B.Issuing, func(t *Template) { t.URIs(id) }), w.B.Issuing.DER)
	c.ID = w.id(id)
	return c
}

// crossCases are V-29: a common root has cross-signed B's anchor, and that
// certificate is sent along.
func (w *World) crossCases() []Case {
	root := w.CA(nil, "platform root", w.A, func(t *Template) { t.Drop(SAN); t.Set(BasicConstraints, true, sequence(boolean(true))) })
	cross := func(a *Authority, poison bool) []byte {
		t := w.base(a.Anchor.Name, a.Anchor.Key.Public(), root)
		t.URIs(a.TrustDomain.IDString())
		t.Set(BasicConstraints, true, caConstraints(1))
		t.Set(KeyUsage, true, bits(1, 0x06))
		if poison {
			t.Set(Unknown, true, tlv(0x05))
		}
		return w.sign(t, root)
	}
	bad := w.chain(w.Leaf(w.B.Issuing, nil), w.B.Issuing.DER, cross(w.B, false), root.DER)
	good := w.chain(w.Leaf(w.A.Issuing, nil), w.A.Issuing.DER, cross(w.A, false), root.DER)
	poisoned := w.chain(w.Leaf(w.A.Issuing, nil), w.A.Issuing.DER, cross(w.A, true))
	return []Case{
		refused("V-29", "cross-certificate-of-B", svid.Untrusted, bad, good),
		accepted("V-29", "poisoned-cross-certificate-of-A", poisoned),
	}
}

// under is a case whose leaf is signed by ca, and ca by A's anchor.
func (w *World) under(ca *Issuer, e edit) Case { return w.chain(w.Leaf(ca, e), ca.DER) }

// badIssuer is refused for an edit of the issuing authority's certificate.
func (w *World) badIssuer(row, name string, want svid.Reason, bad, good edit) Case {
	issuer := func(e edit) Case { return w.under(w.CA(w.A.Anchor, "a.example other", w.A, e), nil) }
	return refused(row, name, want, issuer(bad), issuer(good))
}

// issuerCases are V-30, V-31, V-33 and V-38.
func (w *World) issuerCases() []Case {
	leafAsIssuer := &Issuer{Name: name("workload"), Key: w.leafKey, DER: w.Leaf(w.A.Issuing, nil)}
	spki := func(t *Template) { t.Subject = name("victim") }
	byLeaf := w.chain(w.Leaf(leafAsIssuer, spki), leafAsIssuer.DER, w.A.Issuing.DER)
	unknown := func(critical bool) edit { return func(t *Template) { t.Set(Unknown, critical, tlv(0x05)) } }
	ids := func(texts ...string) edit { return func(t *Template) { t.URIs(texts...) } }
	td := w.A.TrustDomain.IDString()
	return []Case{
		w.badIssuer("V-30", "issuer-without-cA", svid.CANotCA, func(t *Template) { t.Set(BasicConstraints, true, sequence()) }, nil),
		w.badIssuer("V-30", "issuer-without-basic-constraints", svid.CANotCA, func(t *Template) { t.Drop(BasicConstraints) }, nil),
		w.badIssuer("V-30", "issuer-without-keyCertSign", svid.CANoCertSign, func(t *Template) { t.Set(KeyUsage, true, bits(1, 0x02)) }, nil),
		w.badIssuer("V-30", "issuer-without-key-usage", svid.CANoKeyUsage, func(t *Template) { t.Drop(KeyUsage) }, nil),
		w.badIssuer("V-30", "issuer-with-key-usage-not-critical", svid.CAKeyUsageNotCrit, func(t *Template) { t.Set(KeyUsage, false, bits(1, 0x06)) }, nil),
		w.badIssuer("V-30", "issuer-for-email-only", svid.CAExtKeyUsage, func(t *Template) {
			t.Set(ExtKeyUsage, false, sequence(oid(1, 3, 6, 1, 5, 5, 7, 3, 4)))
		}, func(t *Template) { t.Set(ExtKeyUsage, false, sequence(oid(2, 5, 29, 37, 0))) }),
		refused("V-30", "leaf-as-issuer", svid.CANotCA, byLeaf, w.leaf(spki)),
		w.pathLengthCase(),
		w.badLeaf("V-31", "path-length-in-leaf", svid.LeafPathLength, func(t *Template) { t.Set(BasicConstraints, true, sequence(integer(0))) }),
		refused("V-33", "in-leaf", svid.CriticalExtension, w.leaf(unknown(true)), w.leaf(unknown(false))),
		w.badIssuer("V-33", "in-issuer", svid.CACriticalExt, unknown(true), unknown(false)),
		w.badIssuer("V-38", "issuer-ID-in-B", svid.CAIDForeign, ids(w.B.TrustDomain.IDString()), ids(td)),
		w.badIssuer("V-38", "issuer-ID-with-path", svid.CAIDPath, ids(td+"/ca"), ids(td)),
		w.badIssuer("V-38", "issuer-with-two-IDs", svid.CAIDMalformed, ids(td, td+"/ca"), ids(td)),
		w.badIssuer("V-38", "issuer-ID-malformed", svid.CAIDMalformed, ids("SPIFFE://a.example"), ids(td)),
		w.badIssuer("V-38", "issuer-ID-of-two-slashes", svid.CAIDMalformed, ids(td+"//"), ids(td+"/")),
		w.foreignAnchor(),
		w.badIssuer("V-24", "issuer-expired", svid.CAExpired,
			func(t *Template) { t.Until(w.Now.Add(-time.Hour), w.Now.Add(-time.Minute)) },
			func(t *Template) { t.Until(w.Now.Add(-time.Hour), w.Now.Add(time.Hour)) }),
	}
}

// foreignAnchor is V-38 for an anchor that has come into the wrong bundle.
func (w *World) foreignAnchor() Case {
	c := w.chain(w.Leaf(w.B.Issuing, nil), w.B.Issuing.DER)
	c.Bundles = w.anchors(w.A.TrustDomain, w.B.Anchor.DER)
	return refused("V-38", "anchor-of-B-in-bundle-of-A", svid.CAIDForeign, c, w.leaf(nil))
}

// pathLengthCase is V-31: a sub-authority under an authority that allows none.
func (w *World) pathLengthCase() Case {
	with := func(length byte) Case {
		anchor := w.CA(nil, "deep anchor", w.A, func(t *Template) { t.Set(BasicConstraints, true, sequence(boolean(true))) })
		middle := w.CA(anchor, "middle", w.A, func(t *Template) { t.Set(BasicConstraints, true, caConstraints(length)) })
		low := w.CA(middle, "low", w.A, nil)
		c := w.chain(w.Leaf(low, nil), low.DER, middle.DER)
		c.Bundles = w.anchors(w.A.TrustDomain, anchor.DER)
		return c
	}
	return refused("V-31", "path-length-exceeded", svid.PathLength, with(0), with(1))
}

// constraintCases are V-32: name constraints of the issuing authority.
func (w *World) constraintCases() []Case {
	subtrees := func(kind byte, names ...[]byte) []byte {
		var list [][]byte
		for _, n := range names {
			list = append(list, sequence(n))
		}
		return tlv(kind, list...)
	}
	permitted := func(names ...[]byte) []byte { return subtrees(0xa0, names...) }
	excluded := func(names ...[]byte) []byte { return subtrees(0xa1, names...) }
	constrain := func(parts ...[]byte) edit {
		return func(t *Template) { t.Set(NameConstraints, true, sequence(parts...)) }
	}
	good := constrain(permitted(uri("a.example")))
	var many [][]byte
	for i := range 10_000 {
		many = append(many, uri(string(rune('b'+i%24))))
	}
	withDNS := func(text string) edit {
		return func(t *Template) { t.names(dns(text), uri(w.A.ID("/web"))) }
	}
	noEvil := w.CA(w.A.Anchor, "no evil", w.A, constrain(excluded(dns("evil.example"))))
	return []Case{
		w.badIssuer("V-32", "excluded-trust-domain", svid.NameConstraints, constrain(excluded(uri("a.example"))), good),
		w.badIssuer("V-32", "other-trust-domain-permitted", svid.NameConstraints, constrain(permitted(uri("b.example"))), good),
		w.badIssuer("V-32", "malformed", svid.Malformed, func(t *Template) { t.Set(NameConstraints, true, sequence(integer(1))) }, good),
		w.badIssuer("V-32", "ten-thousand", svid.NameConstraints, constrain(excluded(many...)), constrain(excluded(many[:100]...))),
		refused("V-32", "empty-DNS-name", svid.BadSAN, w.under(noEvil, withDNS("")), w.under(noEvil, withDNS("good.example"))),
		refused("V-32", "excluded-DNS-name", svid.NameConstraints, w.under(noEvil, withDNS("x.evil.example")), w.under(noEvil, withDNS("good.example"))),
		w.badLeaf("V-32", "in-leaf", svid.LeafConstraints, constrain(permitted(uri("a.example")))),
	}
}

// robustCases are V-34: what must be lived with, and what is too much.
func (w *World) robustCases() []Case {
	wrongAKI := w.leaf(func(t *Template) { t.Set(AuthorityKeyID, false, sequence(tlv(0x80, []byte("somebody else's key!")))) })
	wrongSKI := w.under(w.CA(w.A.Anchor, "wrong ski", w.A, func(t *Template) {
		t.Set(SubjectKeyID, false, octets([]byte("not the hash of this")))
	}), nil)
	good := w.leaf(nil)
	longer := func(count int) Case {
		c := good
		c.Chain = append([][]byte{}, good.Chain...)
		for len(c.Chain) < count {
			c.Chain = append(c.Chain, w.A.Issuing.DER)
		}
		return c
	}
	heavy := w.CA(w.A.Anchor, "heavy", w.A, func(t *Template) { t.Set(Unknown, false, make([]byte, 64<<10)) })
	return []Case{
		accepted("V-34", "wrong-AKI", wrongAKI),
		accepted("V-34", "wrong-SKI", wrongSKI),
		accepted("V-34", "hundred-anchors-of-one-name", w.sameNameAnchors(100)),
		accepted("V-34", "six-issuers-of-one-name", w.sameNameIssuers(6)),
		refused("V-34", "issuers-that-sign-each-other", svid.BadSignature, w.ring("a.example anchor"), good),
		refused("V-34", "long-line-to-nowhere", svid.Untrusted, w.ring(""), good),
		refused("V-34", "thousand-certificates", svid.TooLarge, longer(1000), longer(8)),
		refused("V-34", "nine-certificates", svid.TooLarge, longer(9), longer(8)),
		refused("V-34", "over-64-KiB", svid.TooLarge, w.chain(good.Chain[0], good.Chain[1], heavy.DER), good),
	}
}

func (w *World) sameNameAnchors(count int) Case {
	var roots [][]byte
	var last *Issuer
	for range count {
		last = w.CA(nil, "one name", w.A, nil)
		roots = append(roots, last.DER)
	}
	c := w.chain(w.Leaf(last, nil))
	c.Bundles = w.anchors(w.A.TrustDomain, roots...)
	return c
}

func (w *World) sameNameIssuers(count int) Case {
	c := w.chain(nil)
	var last *Issuer
	for range count {
		last = w.CA(w.A.Anchor, "one name", w.A, nil)
		c.Chain = append(c.Chain, last.DER)
	}
	c.Chain[0] = w.Leaf(last, nil)
	return c
}

// ring is a chain of seven expensive issuers, each signed by the next. All have
// the common name, or, if it is empty, one of their own.
func (w *World) ring(common string) Case {
	const count = 7
	c := w.chain(nil)
	next := &Issuer{Name: name("nobody"), Key: w.newKey(elliptic.P521())}
	if common != "" {
		next.Name = name(common)
	}
	for i := range count {
		own := common
		if own == "" {
			own = fmt.Sprintf("ring %d", i)
		}
		next = w.caWithKey(next, own, w.A, w.newKey(elliptic.P521()), func(t *Template) {
			t.Set(BasicConstraints, true, sequence(boolean(true)))
			t.Drop(AuthorityKeyID)
			t.Drop(SubjectKeyID)
		})
		c.Chain = append(c.Chain, next.DER)
	}
	c.Chain[0] = w.Leaf(next, func(t *Template) { t.Drop(AuthorityKeyID) })
	slices.Reverse(c.Chain[1:])
	return c
}

// bombCases are V-37: input made to be expensive.
func (w *World) bombCases() []Case {
	policy := func(n int) []byte { return oid(1, 3, 6, 1, 4, 1, 99999, 7, n) }
	policies := func(count int) []byte {
		var list [][]byte
		for n := range count {
			list = append(list, sequence(policy(n)))
		}
		return sequence(list...)
	}
	mappings := func() []byte {
		var list [][]byte
		for n := range 8 {
			for m := range 8 {
				list = append(list, sequence(policy(n), policy(m)))
			}
		}
		return sequence(list...)
	}
	bomb := func(t *Template) { t.Set(Policies, false, policies(8)); t.Set(PolicyMappings, true, mappings()) }
	deep := tlv(0x0c, []byte("x"))
	for range 10_000 {
		deep = sequence(deep)
	}
	good := w.leaf(nil)
	pemText := func(i int) []byte {
		return fmt.Appendf(nil, "-----BEGIN CERTIFICATE-----\n%s\n-----END CERTIFICATE-----\n", good.Chain[i])
	}
	return []Case{
		w.badIssuer("V-37", "policy-graph", svid.PolicyExtension, bomb, func(t *Template) { t.Set(Policies, false, policies(8)) }),
		w.badIssuer("V-37", "policy-required-and-none-there", svid.PolicyExtension,
			func(t *Template) { t.Set(PolicyConstraints, true, sequence(tlv(0x80, []byte{0}))) }, nil),
		w.badLeaf("V-37", "many-policies", svid.PolicyExtension, func(t *Template) { t.Set(Policies, false, policies(17)) }),
		accepted("V-37", "sixteen-policies", w.leaf(func(t *Template) { t.Set(Policies, false, policies(16)) })),
		refused("V-37", "deep-ASN.1-in-name", svid.Malformed, w.leaf(func(t *Template) {
			t.Subject = sequence(tlv(0x31, sequence(oid(2, 5, 4, 3), deep)))
		}), good),
		refused("V-37", "deep-ASN.1-as-certificate", svid.Malformed, w.chain(deep, good.Chain[1]), good),
		refused("V-37", "PEM-for-DER", svid.Malformed, w.chain(pemText(0), pemText(1)), good),
	}
}

// withIssuerKey is a case under an issuing authority with another key.
func (w *World) withIssuerKey(key crypto.Signer) Case {
	return w.under(w.caWithKey(w.A.Anchor, "other key", w.A, key, nil), nil)
}

// withAnchorKey is a case under an anchor with another key.
func (w *World) withAnchorKey(key crypto.Signer) Case {
	anchor := w.caWithKey(nil, "other anchor", w.A, key, nil)
	c := w.chain(w.Leaf(anchor, nil))
	c.Bundles = w.anchors(w.A.TrustDomain, anchor.DER)
	return c
}
