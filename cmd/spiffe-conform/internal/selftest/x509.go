package selftest

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net/url"

	"github.com/authsec-ai/icp/cmd/spiffe-conform/internal/builtin"
)

func x509Breakages() []Breakage {
	leaf := func(row, name, says string, edit builtin.Template) Breakage {
		return Breakage{Row: row, Name: name, Says: says, Behaviour: builtin.Behaviour{Leaf: edit}}
	}
	anchor := func(row, name, says string, edit builtin.Template) Breakage {
		return Breakage{Row: row, Name: name, Says: "an anchor of spiffe://home.example/first " + says, Behaviour: builtin.Behaviour{Anchor: edit}}
	}
	intermediate := func(row, name, says string, edit builtin.Template) Breakage {
		return Breakage{Row: row, Name: name, Says: "an intermediate of spiffe://home.example/first " + says, Behaviour: builtin.Behaviour{Intermediate: edit}}
	}
	both := func(row, name, says string, edit builtin.Template) []Breakage {
		return []Breakage{intermediate(row, name+" on an intermediate", says, edit), anchor(row, name+" on an anchor", says, edit)}
	}
	list := []Breakage{
		leaf("X509-01", "two SPIFFE IDs", "has 2 URI names", func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) }),
		leaf("X509-01", "an https name too", "has 2 URI names", func(c *x509.Certificate) { c.URIs = append(c.URIs, name("https://home.example/")) }),
		leaf("X509-03", "a DNS name alone", "has no URI name", func(c *x509.Certificate) { c.URIs, c.DNSNames = nil, []string{"home.example"} }),
		leaf("X509-05", "the ID of a trust domain", "has no path", func(c *x509.Certificate) { c.URIs = []*url.URL{name("spiffe://home.example")} }),
		leaf("X509-05", "an ID with a slash at the end", "empty segment", func(c *x509.Certificate) { c.URIs = []*url.URL{name("spiffe://home.example/")} }),
		leaf("X509-06", "names not critical", "not critical", func(c *x509.Certificate) { c.ExtraExtensions = append(c.ExtraExtensions, looseNames(c)) }),
		leaf("X509-12", "cA true", "has cA true", func(c *x509.Certificate) { c.IsCA = true }),
		leaf("X509-15", "no key usage", "is there: false", func(c *x509.Certificate) { c.KeyUsage = 0 }),
		leaf("X509-15", "key usage not critical", "critical: false", looseUsage(0x80)),
		leaf("X509-17", "keyAgreement alone", "lacks digitalSignature", func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement }),
		leaf("X509-18", "keyCertSign", "has keyCertSign or cRLSign", func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }),
		leaf("X509-18", "cRLSign", "has keyCertSign or cRLSign", func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCRLSign }),
		leaf("X509-19", "no extended key usage", "serverAuth false, clientAuth false", func(c *x509.Certificate) { c.ExtKeyUsage = nil }),
		leaf("X509-19", "clientAuth alone", "serverAuth false, clientAuth true", func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[1:] }),
		leaf("X509-19", "serverAuth alone", "serverAuth true, clientAuth false", func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }),
		{Row: "X509-15", Name: "an anchor's key usage not critical", Says: "critical: false", Behaviour: builtin.Behaviour{Anchor: looseUsage(0x06)}},
	}
	for _, more := range [][]Breakage{
		both("X509-07", "cA false", "has cA false", func(c *x509.Certificate) { c.IsCA = false }),
		both("X509-07", "no keyCertSign", "has cA true, keyCertSign false", func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }),
		both("X509-09", "an ID with a path", "has the name", func(c *x509.Certificate) { c.URIs[0] = name("spiffe://home.example/ca") }),
		both("X509-10", "an ID of another trust domain", "has the name", func(c *x509.Certificate) { c.URIs[0] = name("spiffe://foreign.example") }),
		both("X509-16", "digitalSignature", "has usage bits", func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageDigitalSignature }),
		both("X509-20", "extended key usage", "has extended key usage", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }),
	} {
		list = append(list, more...)
	}
	return list
}

// name parses a name of this file.
func name(text string) *url.URL {
	parsed, _ := url.Parse(text)
	return parsed
}

// looseNames is the subject alternative name, not critical.
func looseNames(c *x509.Certificate) pkix.Extension {
	uri := asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(c.URIs[0].String())}
	value, _ := asn1.Marshal([]asn1.RawValue{uri}) // a fixed shape
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: value}
}

// looseUsage gives key usage with these bits, not critical.
func looseUsage(bits byte) builtin.Template {
	value := []byte{asn1.TagBitString, 2, 0, bits}
	return func(c *x509.Certificate) {
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Value: value})
	}
}
