package svid

import (
	"bytes"
	"encoding/asn1"

	"golang.org/x/crypto/cryptobyte"
	casn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// rawCert is what we read of a certificate with our own eyes, before a library
// sees it. Its fields point into the certificate's bytes.
type rawCert struct {
	serial       []byte // content octets
	validity     cryptobyte.String
	spki         cryptobyte.String
	subjectEmpty bool
	extensions   []extension
}

type extension struct {
	oid      cryptobyte.String // content octets
	critical bool
	value    cryptobyte.String
}

// Content octets of the object identifiers that we look for.
const (
	oidSubjectKeyID     = "\x55\x1d\x0e"
	oidKeyUsage         = "\x55\x1d\x0f"
	oidSAN              = "\x55\x1d\x11"
	oidBasicConstraints = "\x55\x1d\x13"
	oidNameConstraints  = "\x55\x1d\x1e"
	oidPolicies         = "\x55\x1d\x20"
	oidPolicyMappings   = "\x55\x1d\x21"
	oidAuthorityKeyID   = "\x55\x1d\x23"
	oidExtKeyUsage      = "\x55\x1d\x25"
)

const maxExtensions = 64

// find gives the extension with the oid, nil if there is none.
func (c *rawCert) find(oid string) *extension {
	for i := range c.extensions {
		if string(c.extensions[i].oid) == oid {
			return &c.extensions[i]
		}
	}
	return nil
}

// readCert walks the DER of one v3 certificate (RFC 5280 section 4.1) and
// refuses whatever is not exactly that.
func readCert(der []byte) (*rawCert, error) {
	input := cryptobyte.String(der)
	var cert, tbs, outerAlg cryptobyte.String
	var signature asn1.BitString
	if !input.ReadASN1(&cert, casn1.SEQUENCE) || !input.Empty() ||
		!cert.ReadASN1(&tbs, casn1.SEQUENCE) ||
		!cert.ReadASN1(&outerAlg, casn1.SEQUENCE) ||
		!cert.ReadASN1BitString(&signature) || !cert.Empty() {
		return nil, refuse(Malformed, "the certificate is not DER, or has bytes after its end")
	}
	return readTBS(tbs, outerAlg)
}

func readTBS(tbs, outerAlg cryptobyte.String) (*rawCert, error) {
	var c rawCert
	var version int
	var serial, alg, issuer, validity, subject, wrapped, list cryptobyte.String
	if !tbs.ReadOptionalASN1Integer(&version, casn1.Tag(0).Constructed().ContextSpecific(), 0) || version != 2 {
		return nil, refuse(Malformed, "the certificate is not version 3")
	}
	if !tbs.ReadASN1(&serial, casn1.INTEGER) ||
		!tbs.ReadASN1(&alg, casn1.SEQUENCE) ||
		!tbs.ReadASN1(&issuer, casn1.SEQUENCE) ||
		!tbs.ReadASN1(&validity, casn1.SEQUENCE) ||
		!tbs.ReadASN1(&subject, casn1.SEQUENCE) ||
		!tbs.ReadASN1(&c.spki, casn1.SEQUENCE) ||
		!tbs.SkipOptionalASN1(casn1.Tag(1).ContextSpecific()) ||
		!tbs.SkipOptionalASN1(casn1.Tag(2).ContextSpecific()) {
		return nil, refuse(Malformed, "the certificate's fields are malformed")
	}
	c.serial, c.validity, c.subjectEmpty = serial, validity, subject.Empty()
	if err := checkSerial(serial); err != nil {
		return nil, err
	}
	if !bytes.Equal(alg, outerAlg) {
		return nil, refuse(AlgorithmMismatch, "the signature algorithm inside the certificate is not the one outside")
	}
	if err := checkValidityForm(validity); err != nil {
		return nil, err
	}
	if tbs.Empty() {
		return &c, nil // no extensions
	}
	if !tbs.ReadASN1(&wrapped, casn1.Tag(3).Constructed().ContextSpecific()) || !tbs.Empty() ||
		!wrapped.ReadASN1(&list, casn1.SEQUENCE) || !wrapped.Empty() {
		return nil, refuse(Malformed, "the certificate's extensions are malformed")
	}
	return &c, c.readExtensions(list)
}

// checkSerial asks for a positive DER integer of at most 20 octets (RFC 5280
// section 4.1.2.2).
func checkSerial(serial []byte) error {
	switch {
	case len(serial) == 0 || len(serial) > 20:
		return refuse(BadSerial, "the serial number has %d bytes; it may have 1 to 20", len(serial))
	case serial[0]&0x80 != 0:
		return refuse(BadSerial, "the serial number is negative")
	case len(serial) == 1 && serial[0] == 0:
		return refuse(BadSerial, "the serial number is zero")
	case len(serial) > 1 && serial[0] == 0 && serial[1]&0x80 == 0:
		return refuse(Malformed, "the serial number is not DER: it has a needless leading zero")
	}
	return nil
}

// checkValidityForm asks for the two forms of RFC 5280 section 4.1.2.5,
// YYMMDDHHMMSSZ and YYYYMMDDHHMMSSZ: no fraction, no offset.
func checkValidityForm(validity cryptobyte.String) error {
	for range 2 {
		var value cryptobyte.String
		var tag casn1.Tag
		if !validity.ReadAnyASN1(&value, &tag) {
			return refuse(Malformed, "the certificate's validity is malformed")
		}
		want := len("YYMMDDHHMMSSZ")
		if tag == casn1.GeneralizedTime {
			want = len("YYYYMMDDHHMMSSZ")
		}
		if len(value) != want || value[want-1] != 'Z' {
			return refuse(BadValidity, "the certificate's validity is not written as RFC 5280 asks")
		}
	}
	if !validity.Empty() {
		return refuse(Malformed, "the certificate's validity is malformed")
	}
	return nil
}

func (c *rawCert) readExtensions(list cryptobyte.String) error {
	for !list.Empty() {
		var seq, value cryptobyte.String
		var e extension
		if !list.ReadASN1(&seq, casn1.SEQUENCE) || !seq.ReadASN1(&e.oid, casn1.OBJECT_IDENTIFIER) {
			return refuse(Malformed, "an extension is malformed")
		}
		if seq.PeekASN1Tag(casn1.BOOLEAN) && !seq.ReadASN1Boolean(&e.critical) {
			return refuse(Malformed, "an extension is malformed")
		}
		if !seq.ReadASN1(&value, casn1.OCTET_STRING) || !seq.Empty() {
			return refuse(Malformed, "an extension is malformed")
		}
		if c.find(string(e.oid)) != nil {
			return refuse(DuplicateExtension, "the certificate has an extension twice")
		}
		if len(c.extensions) == maxExtensions {
			return refuse(Malformed, "the certificate has more than %d extensions", maxExtensions)
		}
		e.value = value
		c.extensions = append(c.extensions, e)
	}
	return nil
}
