package svid

import (
	"bytes"
	"crypto/x509"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
	casn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/authsec-ai/icp/identity"
)

// Reasons that only a lint gives: peers' certificates may differ here, ours not.
const (
	LintExtension        Reason = "lint-extension"         // one that the profile does not have
	LintSAN              Reason = "lint-san"               // names other than one URI and, in a leaf, DNS names
	LintSANCritical      Reason = "lint-san-critical"      // X509-06: critical if and only if the subject is empty
	LintBasicConstraints Reason = "lint-basic-constraints" // absent, not critical, or not exactly the profile's
	LintKeyUsage         Reason = "lint-key-usage"         // absent, not critical, or not exactly the profile's
	LintExtKeyUsage      Reason = "lint-extended-key-usage"
	LintKeyID            Reason = "lint-key-id"     // subject or authority key identifier is absent, empty or critical
	LintSubject          Reason = "lint-subject"    // an authority needs one (RFC 5280 section 4.1.2.6)
	LintAuthorityID      Reason = "lint-ca-id"      // X509-08, X509-09, ID-22
	LintValidity         Reason = "lint-validity"   // UTCTime to 2049, GeneralizedTime from 2050 on
	LintHasConstraint    Reason = "lint-constraint" // X509-14: a URI constraint is a bare host
)

// Values that the profiles fix to the byte.
const (
	notCA          = "\x30\x00"         // SEQUENCE {}
	signsCertsCRLs = "\x03\x02\x01\x06" // keyCertSign, cRLSign
	serverAuth     = "\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x01"
	clientAuth     = "\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x02"
)

// LintLeaf checks, byte for byte, that a certificate about to be released is a
// conforming X509-SVID of a workload or agent. It is stricter than VerifyX509:
// the profile has nothing optional but DNS names, and keyEncipherment and
// keyAgreement in the key usage. Every error is an *Error.
func LintLeaf(der []byte) error {
	raw, err := readCert(der)
	if err != nil {
		return err
	}
	id, err := leafID(raw)
	if err != nil {
		return err
	}
	leaf, err := parseLink(&link{der: der}, raw, WeakKey)
	if err != nil {
		return err
	}
	if err := checkLeaf(raw, leaf, id); err != nil {
		return err
	}
	return firstError(
		lintExtensions(raw, oidSAN, oidBasicConstraints, oidKeyUsage, oidExtKeyUsage, oidSubjectKeyID, oidAuthorityKeyID),
		lintNames(raw, tagURI, tagDNS),
		lintSANCritical(raw),
		lintExact(raw, oidBasicConstraints, LintBasicConstraints, notCA),
		lintLeafKeyUsage(raw),
		lintLeafExtKeyUsage(raw),
		lintKeyIDs(raw, leaf, true),
		lintTimes(raw, leaf),
	)
}

// LintAuthority checks, byte for byte, that a certificate about to be published
// is a conforming signing certificate of a trust domain: a CA whose key usage
// is keyCertSign and cRLSign, without extended key usage, whose one name is the
// ID of its trust domain. Every error is an *Error.
func LintAuthority(der []byte) error {
	raw, err := readCert(der)
	if err != nil {
		return err
	}
	cert, err := parseLink(&link{der: der}, raw, CAWeakKey)
	if err != nil {
		return err
	}
	if err := checkIssuer(cert); err != nil {
		return err
	}
	if err := lintAuthorityID(raw); err != nil { // also says that there is a SAN
		return err
	}
	selfSigned := bytes.Equal(cert.RawSubject, cert.RawIssuer)
	return firstError(
		lintExtensions(raw, oidSAN, oidBasicConstraints, oidKeyUsage, oidNameConstraints, oidSubjectKeyID, oidAuthorityKeyID),
		lintNames(raw, tagURI),
		lintSubject(raw),
		lintSANCritical(raw),
		lintCritical(raw, oidBasicConstraints, LintBasicConstraints),
		lintExact(raw, oidKeyUsage, LintKeyUsage, signsCertsCRLs),
		lintKeyIDs(raw, cert, !selfSigned),
		lintConstraints(cert),
		lintTimes(raw, cert),
	)
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// lintExtensions asks that the certificate has no extension but the allowed.
func lintExtensions(raw *rawCert, allowed ...string) error {
	for _, e := range raw.extensions {
		if !slices.Contains(allowed, string(e.oid)) {
			return refuse(LintExtension, "extension %x is not in the profile", []byte(e.oid))
		}
	}
	return nil
}

// lintNames asks that the subject alternative name holds only the given kinds.
func lintNames(raw *rawCert, kinds ...casn1.Tag) error {
	var names cryptobyte.String
	san := raw.find(oidSAN).value
	san.ReadASN1(&names, casn1.SEQUENCE) // readURIs has read it already
	for !names.Empty() {
		var name cryptobyte.String
		var tag casn1.Tag
		names.ReadAnyASN1(&name, &tag)
		if !slices.Contains(kinds, tag) {
			return refuse(LintSAN, "the subject alternative name has a name of kind %#x", uint8(tag))
		}
	}
	return nil
}

func lintSANCritical(raw *rawCert) error {
	if raw.find(oidSAN).critical != raw.subjectEmpty {
		return refuse(LintSANCritical, "the subject alternative name must be critical if and only if the subject is empty")
	}
	return nil
}

func lintCritical(raw *rawCert, oid string, reason Reason) error {
	if e := raw.find(oid); e == nil || !e.critical {
		return refuse(reason, "the extension is absent or not critical")
	}
	return nil
}

// lintExact asks for a critical extension with one of the values.
func lintExact(raw *rawCert, oid string, reason Reason, values ...string) error {
	if err := lintCritical(raw, oid, reason); err != nil {
		return err
	}
	if value := string(raw.find(oid).value); !slices.Contains(values, value) {
		return refuse(reason, "the extension holds %x", value)
	}
	return nil
}

// lintLeafKeyUsage allows digitalSignature alone or with keyEncipherment,
// keyAgreement or both.
func lintLeafKeyUsage(raw *rawCert) error {
	return lintExact(raw, oidKeyUsage, LintKeyUsage,
		"\x03\x02\x07\x80", "\x03\x02\x05\xa0", "\x03\x02\x03\x88", "\x03\x02\x03\xa8")
}

func lintLeafExtKeyUsage(raw *rawCert) error {
	const header = "\x30\x14"
	e := raw.find(oidExtKeyUsage)
	if e == nil || e.critical {
		return refuse(LintExtKeyUsage, "the extended key usage is absent or critical")
	}
	switch string(e.value) {
	case header + serverAuth + clientAuth, header + clientAuth + serverAuth:
		return nil
	}
	return refuse(LintExtKeyUsage, "the extended key usage is not serverAuth and clientAuth alone")
}

// lintKeyIDs asks for a subject key identifier and, where the issuer is another
// certificate, an authority key identifier.
func lintKeyIDs(raw *rawCert, cert *x509.Certificate, needAuthority bool) error {
	ski, aki := raw.find(oidSubjectKeyID), raw.find(oidAuthorityKeyID)
	switch {
	case ski == nil || ski.critical || len(cert.SubjectKeyId) == 0:
		return refuse(LintKeyID, "the subject key identifier is absent, empty or critical")
	case aki == nil && !needAuthority:
		return nil
	case aki == nil || aki.critical || len(cert.AuthorityKeyId) == 0:
		return refuse(LintKeyID, "the authority key identifier is absent, empty or critical")
	}
	return nil
}

func lintSubject(raw *rawCert) error {
	if raw.subjectEmpty {
		return refuse(LintSubject, "a signing certificate needs a subject")
	}
	return nil
}

// lintAuthorityID asks for exactly one URI, the ID of a trust domain.
func lintAuthorityID(raw *rawCert) error {
	id, err := leafID(raw) // the same one URI, here without a path
	switch {
	case err != nil:
		return refuse(LintAuthorityID, "a signing certificate has exactly one URI, the ID of its trust domain: %s", err)
	case id.Path() != "":
		return refuse(LintAuthorityID, "the signing certificate's ID %s has a path", id)
	}
	return nil
}

// lintConstraints asks that URI constraints are bare hosts: one written as
// spiffe://td makes good leaves fail in some libraries and parsing in others.
func lintConstraints(cert *x509.Certificate) error {
	for _, list := range [][]string{cert.PermittedURIDomains, cert.ExcludedURIDomains} {
		for _, host := range list {
			if _, err := identity.ParseTrustDomain(host); err != nil {
				return refuse(LintHasConstraint, "the URI constraint %.100q is not a bare host", host)
			}
		}
	}
	return nil
}

// lintTimes asks for UTCTime up to 2049 and GeneralizedTime after (RFC 5280
// section 4.1.2.5).
func lintTimes(raw *rawCert, cert *x509.Certificate) error {
	if cert.NotAfter.Before(cert.NotBefore) {
		return refuse(BadValidity, "the validity ends before it begins")
	}
	validity := raw.validity
	for _, t := range []time.Time{cert.NotBefore, cert.NotAfter} {
		var value cryptobyte.String
		var tag casn1.Tag
		validity.ReadAnyASN1(&value, &tag) // checkValidityForm has read it already
		if (tag == casn1.GeneralizedTime) != (t.Year() >= 2050) {
			return refuse(LintValidity, "the time %s is not in the form RFC 5280 asks for", t.Format(time.RFC3339))
		}
	}
	return nil
}
