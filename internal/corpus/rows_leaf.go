package corpus

import (
	"time"

	"github.com/authsec-ai/icp/identity/svid"
)

// leafCases are V-20 to V-23: what a leaf may be.
func (w *World) leafCases() []Case {
	usage := func(value []byte) edit { return func(t *Template) { t.Set(KeyUsage, true, value) } }
	extended := func(usages ...[]byte) edit {
		return func(t *Template) { t.Set(ExtKeyUsage, false, sequence(usages...)) }
	}
	email, anyUse := oid(1, 3, 6, 1, 5, 5, 7, 3, 4), oid(2, 5, 29, 37, 0)
	return []Case{
		w.badLeaf("V-20", "cA", svid.LeafIsCA, func(t *Template) { t.Set(BasicConstraints, true, sequence(boolean(true))) }),
		accepted("V-20", "no-basic-constraints", w.leaf(func(t *Template) { t.Drop(BasicConstraints) })),
		w.badLeaf("V-21", "keyCertSign", svid.LeafSignsCerts, usage(bits(2, 0x84))),
		w.badLeaf("V-21", "cRLSign", svid.LeafSignsCRLs, usage(bits(1, 0x82))),
		w.badLeaf("V-22", "no-digitalSignature", svid.NoDigitalSignature, usage(bits(5, 0x20))),
		w.badLeaf("V-22", "no-key-usage", svid.NoKeyUsage, func(t *Template) { t.Drop(KeyUsage) }),
		w.badLeaf("V-22", "key-usage-not-critical", svid.KeyUsageNotCrit, func(t *Template) { t.Set(KeyUsage, false, bits(7, 0x80)) }),
		accepted("V-22", "with-keyEncipherment-and-keyAgreement", w.leaf(usage(bits(3, 0xa8)))),
		w.badLeaf("V-23", "emailProtection-only", svid.BadExtKeyUsage, extended(email)),
		w.badLeaf("V-23", "clientAuth-only", svid.BadExtKeyUsage, extended(clientAuth())),
		w.badLeaf("V-23", "serverAuth-only", svid.BadExtKeyUsage, extended(serverAuth())),
		w.badLeaf("V-23", "any", svid.BadExtKeyUsage, extended(anyUse)),
		accepted("V-23", "absent", w.leaf(func(t *Template) { t.Drop(ExtKeyUsage) })),
		accepted("V-23", "both-and-more", w.leaf(extended(email, clientAuth(), serverAuth()))),
	}
}

// timeCases are V-24.
func (w *World) timeCases() []Case {
	valid := func(from, to time.Duration) Case {
		return w.leaf(func(t *Template) { t.Until(w.Now.Add(from), w.Now.Add(to)) })
	}
	raw := func(value []byte) Case { return w.leaf(func(t *Template) { t.Validity = value }) }
	skewed := func(c Case) Case { c.Options.Skew = 30 * time.Second; return c }
	exact := func(c Case) Case { c.Exact = true; return c }
	start, century := utcTime(w.Now.Add(-time.Hour)), time.Date(2060, 1, 1, 0, 0, 0, 0, time.UTC)
	forever := time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	fraction := tlv(0x18, []byte(century.Format("20060102150405")+".5Z"))
	ending := func(name, form string) Case {
		end := tlv(0x17, []byte(w.Now.Add(time.Hour).Format(form)))
		return refused("V-24", name, svid.BadValidity, raw(append(start, end...)), valid(-time.Hour, time.Hour))
	}
	return []Case{
		ending("no-seconds", "0601021504Z"), ending("no-Z", "0601021504050"), ending("bytes-after-Z", "060102150405ZZ"),
		ending("offset", "060102150405+0100"),
		exact(refused("V-24", "expired-by-1s", svid.Expired, valid(-time.Hour, -time.Second), valid(-time.Hour, 0))),
		exact(refused("V-24", "not-valid-for-1s", svid.NotYetValid, valid(time.Second, time.Hour), valid(0, time.Hour))),
		exact(refused("V-24", "expired-by-skew-and-1s", svid.Expired,
			skewed(valid(-time.Hour, -31*time.Second)), skewed(valid(-time.Hour, -30*time.Second)))),
		exact(refused("V-24", "not-valid-for-skew-and-1s", svid.NotYetValid,
			skewed(valid(31*time.Second, time.Hour)), skewed(valid(30*time.Second, time.Hour)))),
		refused("V-24", "expired-by-half-an-hour", svid.Expired, valid(-time.Hour, -30*time.Minute), valid(-time.Hour, 30*time.Minute)),
		refused("V-24", "not-valid-for-half-an-hour", svid.NotYetValid, valid(30*time.Minute, time.Hour), valid(-time.Hour, time.Hour)),
		refused("V-24", "ends-before-it-begins", svid.BadValidity, valid(5*time.Minute, -5*time.Minute), valid(-5*time.Minute, 5*time.Minute)),
		refused("V-24", "year-9999", svid.BadValidity, raw(append(start, generalizedTime(forever)...)), raw(append(start, generalizedTime(century)...))),
		refused("V-24", "fraction", svid.BadValidity, raw(append(start, fraction...)), raw(append(start, generalizedTime(century)...))),
	}
}

// ownRuleCases are V-39 to V-42 as far as a chain shows them.
func (w *World) ownRuleCases() []Case {
	nameless := func(critical bool) Case {
		return w.leaf(func(t *Template) {
			t.Subject = sequence()
			t.Set(SAN, critical, sequence(uri(w.A.ID("/web"))))
		})
	}
	presented := func(chain ...[]byte) Case { return w.chain(chain...) }
	issuing, anchor := presented(w.A.Issuing.DER), presented(w.A.Anchor.DER)
	issuing.Key, anchor.Key = w.A.Issuing.Key, w.A.Anchor.Key
	none := presented()
	none.Key = nil
	return []Case{
		accepted("V-39", "no-subject-and-SAN-not-critical", nameless(false)),
		accepted("V-39", "no-subject-and-SAN-critical", nameless(true)),
		w.revoked(),
		refused("V-41", "no-certificate", svid.EmptyChain, none, w.leaf(nil)),
		refused("V-42", "issuing-authority-as-peer", svid.LeafIsCA, issuing, w.leaf(nil)),
		refused("V-42", "anchor-as-peer", svid.LeafIsCA, anchor, w.leaf(nil)),
	}
}

// revoked is V-40: two leaves of one workload, one of them on the ban list.
func (w *World) revoked() Case {
	with := func(serial ...byte) Case {
		c := w.leaf(func(t *Template) { t.Serial = serial })
		c.Exact = true
		c.Options.Revoked = revokedOnly(w.A.ID("/web"), "7abc")
		return c
	}
	return refused("V-40", "serial-on-the-list", svid.RevokedSVID, with(0x7a, 0xbc), with(0x7a, 0xbd))
}
