package svid

import (
	"bytes"
	"crypto/x509"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const (
	// maxNameConstraints bounds the names in one issuer's constraints, each of
	// which is compared with each name of the leaf.
	maxNameConstraints = 128
	// maxExplainChecks bounds the signature checks spent on a better reason.
	maxExplainChecks = 8
)

// findPaths gives every path from leaf to one of the anchors through presented
// certificates, as crypto/x509 builds them at the instant at. Presented
// certificates that may not issue are set aside first, so they are in no path;
// they are only an error when no path is left without them.
func findPaths(leaf *x509.Certificate, rest []link, anchors []*x509.Certificate, at time.Time) ([][]*x509.Certificate, error) {
	issuers, aside, err := readIssuers(rest)
	if err != nil {
		return nil, err
	}
	paths, err := leaf.Verify(x509.VerifyOptions{
		Roots:         pool(anchors),
		Intermediates: pool(issuers),
		CurrentTime:   at,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageAny}, // checked by checkLeaf and checkIssuer
	})
	switch {
	case err == nil:
		return paths, nil
	case aside != nil:
		return nil, aside
	}
	return nil, explain(err, leaf, issuers, anchors, at)
}

func pool(certs []*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, cert := range certs {
		p.AddCert(cert)
	}
	return p
}

// readIssuers parses the certificates above the leaf. aside is why the first
// one that may not issue was left out; malformed ones are an error.
func readIssuers(rest []link) (issuers []*x509.Certificate, aside, err error) {
	for i := range rest {
		raw, err := readCert(rest[i].der)
		if err != nil {
			return nil, nil, err
		}
		cert, err := parseLink(&rest[i], raw, CAWeakKey)
		if err == nil {
			err = checkIssuer(cert)
		}
		switch {
		case err == nil:
			issuers = append(issuers, cert)
		case ReasonOf(err) == Malformed:
			return nil, nil, err
		case aside == nil:
			aside = err
		}
	}
	return issuers, aside, nil
}

// checkIssuer applies the rules for a certificate that signs others (X509-SVID
// section 4, RFC 5280 section 4.2.1).
func checkIssuer(cert *x509.Certificate) error {
	keyUsage := findExtension(cert, oidKeyUsage)
	switch {
	case !cert.BasicConstraintsValid || !cert.IsCA:
		return refuse(CANotCA, "the issuer %.100q is not a CA", cert.Subject)
	case keyUsage == nil:
		return refuse(CANoKeyUsage, "the issuer %.100q has no key usage", cert.Subject)
	case !keyUsage.critical:
		return refuse(CAKeyUsageNotCrit, "the issuer %.100q has a key usage that is not critical", cert.Subject)
	case cert.KeyUsage&x509.KeyUsageCertSign == 0:
		return refuse(CANoCertSign, "the issuer %.100q may not sign certificates", cert.Subject)
	case !strongSignature(cert.SignatureAlgorithm):
		return refuse(CAWeakSignature, "the issuer %.100q is signed with %s", cert.Subject, cert.SignatureAlgorithm)
	case len(cert.UnhandledCriticalExtensions) > 0:
		return refuse(CACriticalExt, "the issuer %.100q has the unknown critical extension %s", cert.Subject, cert.UnhandledCriticalExtensions[0])
	case !issuesForBoth(cert):
		return refuse(CAExtKeyUsage, "the issuer %.100q is limited to other uses than serverAuth and clientAuth", cert.Subject)
	case tooManyPolicies(cert):
		return refuse(PolicyExtension, "the issuer %.100q has policy mappings or more than %d policies", cert.Subject, maxPolicies)
	case countConstraints(cert) > maxNameConstraints:
		return refuse(NameConstraints, "the issuer %.100q has more than %d name constraints", cert.Subject, maxNameConstraints)
	}
	if err := checkKey(cert.PublicKey); err != nil {
		return refuse(CAWeakKey, "the key of issuer %.100q is not accepted: %s", cert.Subject, err)
	}
	return nil
}

// issuesForBoth reports whether an issuer's extended key usage, if it has one,
// leaves both uses of an SVID open.
func issuesForBoth(cert *x509.Certificate) bool {
	for _, usage := range cert.ExtKeyUsage {
		if usage == x509.ExtKeyUsageAny {
			return true
		}
	}
	return servesAndCalls(cert, findExtension(cert, oidExtKeyUsage) != nil)
}

func countConstraints(c *x509.Certificate) int {
	return len(c.PermittedDNSDomains) + len(c.ExcludedDNSDomains) +
		len(c.PermittedURIDomains) + len(c.ExcludedURIDomains) +
		len(c.PermittedEmailAddresses) + len(c.ExcludedEmailAddresses) +
		len(c.PermittedIPRanges) + len(c.ExcludedIPRanges)
}

// findExtension gives an extension of a parsed certificate; oid is one of
// id-ce, whose number within that arc is its last octet.
func findExtension(cert *x509.Certificate, oid string) *extension {
	for i := range cert.Extensions {
		e := &cert.Extensions[i]
		if id := e.Id; len(id) == 4 && id[0] == 2 && id[1] == 5 && id[2] == 29 && id[3] == int(oid[2]) {
			return &extension{critical: e.Critical, value: e.Value}
		}
	}
	return nil
}

// choosePath gives the first path whose issuers have IDs that fit td.
func choosePath(paths [][]*x509.Certificate, td spiffeid.TrustDomain) ([]*x509.Certificate, error) {
	var first error
	for _, path := range paths {
		err := checkIssuerIDs(path[1:], td)
		if err == nil {
			return path, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

func checkIssuerIDs(issuers []*x509.Certificate, td spiffeid.TrustDomain) error {
	for _, issuer := range issuers {
		if err := checkIssuerID(issuer, td); err != nil {
			return err
		}
	}
	return nil
}

// checkIssuerID asks that an issuer's SPIFFE ID, if it has one, is that of the
// trust domain it signs for (X509-SVID section 3.2). "spiffe://td/" passes here
// and nowhere else, because the standard's own example CA carries it.
func checkIssuerID(issuer *x509.Certificate, td spiffeid.TrustDomain) error {
	san := findExtension(issuer, oidSAN)
	if san == nil {
		return nil
	}
	uris, err := readURIs(san.value)
	if err != nil {
		return refuse(CAIDMalformed, "the issuer %.100q has a malformed subject alternative name", issuer.Subject)
	}
	for _, uri := range uris {
		if !looksLikeID(string(uri)) {
			continue
		}
		if len(uris) > 1 {
			return refuse(CAIDMalformed, "the issuer %.100q has more than one URI", issuer.Subject)
		}
		return compareIssuerID(strings.TrimSuffix(string(uri), "/"), td)
	}
	return nil
}

func looksLikeID(uri string) bool {
	return len(uri) >= len("spiffe:") && strings.EqualFold(uri[:len("spiffe:")], "spiffe:")
}

func compareIssuerID(uri string, td spiffeid.TrustDomain) error {
	id, err := parseID(uri)
	switch {
	case err != nil:
		return refuse(CAIDMalformed, "an issuer's ID is malformed: %s", err)
	case id.Path() != "":
		return refuse(CAIDPath, "the issuer's ID %s has a path", id)
	case id.TrustDomain() != td:
		return refuse(CAIDForeign, "the issuer's ID %s is not in trust domain %q", id, td)
	}
	return nil
}

// explain says why crypto/x509 found no path. It follows issuers by name and
// signature, with a bound on signature checks; a fault on the way counts only
// if the way ends at an anchor. The answer refuses in any case; only its reason
// is at stake.
func explain(cause error, leaf *x509.Certificate, issuers, anchors []*x509.Certificate, at time.Time) error {
	var fault error
	checks, current := 0, leaf
	for depth := 0; depth <= len(issuers); depth++ {
		parent, anchored, named := findIssuer(current, issuers, anchors, &checks)
		switch {
		case parent == nil && named:
			return refuse(BadSignature, "the signature is not by the issuer that the certificate names")
		case parent == nil:
			return refuse(Untrusted, "no anchor of the trust domain issued the chain")
		}
		if fault == nil {
			fault = issuerFault(cause, parent, depth, at)
		}
		if anchored && fault != nil {
			return fault
		}
		current = parent
	}
	return refuse(Untrusted, "no path to an anchor of the trust domain: %.200q", cause.Error())
}

// issuerFault says what keeps issuer from standing above depth other issuers.
func issuerFault(cause error, issuer *x509.Certificate, depth int, at time.Time) error {
	switch {
	case at.Before(issuer.NotBefore) || at.After(issuer.NotAfter):
		return refuse(CAExpired, "the issuer %.100q is valid from %s to %s", issuer.Subject,
			issuer.NotBefore.Format(time.RFC3339), issuer.NotAfter.Format(time.RFC3339))
	case issuer.MaxPathLen >= 0 && depth > issuer.MaxPathLen:
		return refuse(PathLength, "the issuer %.100q allows %d issuers below it", issuer.Subject, issuer.MaxPathLen)
	case countConstraints(issuer) > 0:
		return refuse(NameConstraints, "the issuer %.100q may not issue this name: %.200q", issuer.Subject, cause.Error())
	}
	return nil
}

// findIssuer looks for the certificate that signed cert, anchors first. named
// says that one has the right name.
func findIssuer(cert *x509.Certificate, issuers, anchors []*x509.Certificate, checks *int) (parent *x509.Certificate, anchored, named bool) {
	for i, candidate := range append(anchors[:len(anchors):len(anchors)], issuers...) {
		if !bytes.Equal(candidate.RawSubject, cert.RawIssuer) {
			continue
		}
		named = true
		if *checks++; *checks > maxExplainChecks {
			return nil, false, true
		}
		if cert.CheckSignatureFrom(candidate) == nil {
			return candidate, i < len(anchors), true
		}
	}
	return nil, false, named
}
