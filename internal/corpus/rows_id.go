package corpus

import (
	"strings"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/identity/svid"
)

// sanCases are V-01 to V-06: how many URIs, and where.
func (w *World) sanCases() []Case {
	web, other := w.A.ID("/web"), w.A.ID("/other")
	return []Case{
		w.badLeaf("V-01", "two-spiffe-URIs", svid.ManyURIs, func(t *Template) { t.URIs(web, other) }),
		w.badLeaf("V-02", "spiffe-then-https", svid.ManyURIs, func(t *Template) { t.URIs(web, "https://a.example/web") }),
		w.badLeaf("V-02", "https-then-spiffe", svid.ManyURIs, func(t *Template) { t.URIs("https://a.example/web", web) }),
		w.badLeaf("V-03", "same-URI-twice", svid.ManyURIs, func(t *Template) { t.URIs(web, web) }),
		w.badLeaf("V-04", "two-SAN-extensions", svid.DuplicateExtension, func(t *Template) {
			t.Extensions = append(t.Extensions, Extension{OID: SAN, Value: sequence(uri(other))})
		}),
		w.badLeaf("V-05", "ID-in-CN-only", svid.NoURI, func(t *Template) { t.Drop(SAN); t.Subject = name(web) }),
		w.badLeaf("V-06", "ID-as-DNS", svid.NoURI, func(t *Template) { t.names(dns(web)) }),
		w.badLeaf("V-06", "ID-as-email", svid.NoURI, func(t *Template) { t.names(tlv(tagEmail, []byte(web))) }),
		w.badLeaf("V-06", "ID-as-otherName", svid.NoURI, func(t *Template) {
			t.names(tlv(tagOther, []byte(Unknown), tlv(0xa0, tlv(0x0c, []byte(web)))))
		}),
		w.badLeaf("V-06", "ID-under-constructed-tag", svid.BadSAN, func(t *Template) { t.names(tlv(0xa6, []byte(web))) }),
		accepted("V-06", "DNS-beside-URI", w.leaf(func(t *Template) { t.names(dns("admin"), uri(web)) })),
	}
}

// idCase is a leaf whose URI is bad, with a twin whose URI is good.
func (w *World) idCase(row, name string, want svid.Reason, bad, good string) Case {
	return refused(row, name, want, w.leafWithURI(bad), w.leafWithURI(good))
}

// badID is refused for a fault in the ID.
func (w *World) badID(row, name string, fault identity.Fault, bad string) Case {
	return w.idCase(row, name, svid.Reason("id-"+string(fault)), bad, w.A.ID("/web"))
}

func (w *World) leafWithURI(text string) Case {
	c := w.leaf(func(t *Template) { t.URIs(text) })
	if id, err := identity.ParseID(text); err == nil {
		c.ID = id
	}
	return c
}

// idCases are V-07 to V-19: the SPIFFE ID itself, raw.
func (w *World) idCases() []Case {
	list := []struct {
		row, name string
		fault     identity.Fault
		id        string
	}{
		{"V-07", "embedded-NUL", identity.FaultPathChars, "spiffe://a.example/web\x00.evil"},
		{"V-07", "NUL-at-end", identity.FaultPathChars, "spiffe://a.example/web\x00"},
		{"V-07", "NUL-in-trust-domain", identity.FaultTrustDomainChars, "spiffe://a.example\x00.evil/web"},
		{"V-07", "8-bit-byte", identity.FaultPathChars, "spiffe://a.example/w\xe9b"},
		{"V-07", "overlong-UTF-8", identity.FaultPathChars, "spiffe://a.example/web\xc0\xafadmin"},
		{"V-08", "upper-case-trust-domain", identity.FaultTrustDomainCase, "spiffe://A.example/web"},
		{"V-08", "upper-case-scheme", identity.FaultScheme, "SPIFFE://a.example/web"},
		{"V-09", "userinfo", identity.FaultUserinfo, "spiffe://user@a.example/web"},
		{"V-09", "userinfo-with-password", identity.FaultUserinfo, "spiffe://u:p@a.example/web"},
		{"V-09", "empty-userinfo", identity.FaultUserinfo, "spiffe://@a.example/web"},
		{"V-10", "port", identity.FaultPort, "spiffe://a.example:443/web"},
		{"V-10", "empty-port", identity.FaultPort, "spiffe://a.example:/web"},
		{"V-11", "query", identity.FaultQuery, "spiffe://a.example/web?x=1"},
		{"V-11", "bare-question-mark", identity.FaultQuery, "spiffe://a.example/web?"},
		{"V-12", "fragment", identity.FaultFragment, "spiffe://a.example/web#f"},
		{"V-12", "bare-hash", identity.FaultFragment, "spiffe://a.example/web#"},
		{"V-13", "trailing-slash", identity.FaultTrailingSlash, "spiffe://a.example/web/"},
		{"V-13", "root-path", identity.FaultTrailingSlash, "spiffe://a.example/"},
		{"V-13", "no-path", identity.FaultNoPath, "spiffe://a.example"},
		{"V-14", "percent-letter", identity.FaultPercent, "spiffe://a.example/%61"},
		{"V-14", "percent-slash", identity.FaultPercent, "spiffe://a.example/web%2fadmin"},
		{"V-14", "percent-dots", identity.FaultPercent, "spiffe://a.example/%2e%2e/web"},
		{"V-14", "percent-NUL", identity.FaultPercent, "spiffe://a.example/web%00"},
		{"V-15", "dot-segment", identity.FaultDotSegment, "spiffe://a.example/./web"},
		{"V-15", "two-dot-segment", identity.FaultDotSegment, "spiffe://a.example/x/../web"},
		{"V-15", "empty-segment", identity.FaultEmptySegment, "spiffe://a.example/x//web"},
		{"V-15", "empty-first-segment", identity.FaultEmptySegment, "spiffe://a.example//web"},
		{"V-18", "IPv6-literal", identity.FaultTrustDomainChars, "spiffe://[::1]/web"},
		{"V-18", "IPv6-zone", identity.FaultTrustDomainChars, "spiffe://[fe80::1%25x]/web"},
		{"V-19", "homograph-trust-domain", identity.FaultTrustDomainChars, "spiffe://\xd0\xb0.example/web"},
		{"V-19", "homograph-path", identity.FaultPathChars, "spiffe://a.example/w\xd0\xb5b"},
		{"V-19", "star-in-path", identity.FaultPathChars, "spiffe://a.example/*"},
		{"V-19", "star-in-trust-domain", identity.FaultTrustDomainChars, "spiffe://*.example/web"},
	}
	var cases []Case
	for _, l := range list {
		cases = append(cases, w.badID(l.row, l.name, l.fault, l.id))
	}
	return append(cases, w.longIDCases()...)
}

// longIDCases are V-16 to V-19 where the twin is more than a changed text.
func (w *World) longIDCases() []Case {
	long := func(size int) string {
		prefix := w.A.ID("/")
		return prefix + strings.Repeat("x", size-len(prefix))
	}
	tooLong := svid.Reason("id-" + string(identity.FaultTooLong))
	return []Case{
		w.idCase("V-16", "2049-bytes", tooLong, long(2049), long(2048)),
		w.idCase("V-16", "64-KiB", svid.TooLarge, long(64<<10), long(2048)),
		w.idCase("V-16", "1-MiB", svid.TooLarge, long(1<<20), long(2048)),
		w.longDomain(),
		w.ipv4Domain(),
		w.idCase("V-19", "punycode", svid.UnknownDomain, "spiffe://xn--a-7ka.example/web", w.A.ID("/web")),
	}
}

// longDomain is V-17: a trust domain of 256 bytes, its twin of 255.
func (w *World) longDomain() Case {
	return refused("V-17", "256-bytes", svid.Reason("id-"+string(identity.FaultTrustDomainLength)),
		w.inDomain(strings.Repeat("t", 256)), w.inDomain(strings.Repeat("t", 255)))
}

// ipv4Domain is the accepted part of V-18.
func (w *World) ipv4Domain() Case { return accepted("V-18", "IPv4", w.inDomain("10.0.0.1")) }

// inDomain is a case whose whole trust domain has another name.
func (w *World) inDomain(domain string) Case {
	id := "spiffe://" + domain
	ca := w.CA(nil, "long", w.A, func(t *Template) { t.Drop(SAN) })
	c := w.chain(w.Leaf(ca, func(t *Template) { t.URIs(id + "/web") }))
	if parsed, err := identity.ParseID(id + "/web"); err == nil {
		c.ID = parsed
		c.Bundles = w.anchors(parsed.TrustDomain(), ca.DER)
	}
	return c
}
