package svid

import (
	"bytes"
	"crypto/x509"
	"errors"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// maxNameConstraints bounds the names in one issuer's constraints, each of which
// is compared with each name of the leaf.
const maxNameConstraints = 128

// findPaths gives every path from leaf to one of the anchors through presented
// certificates, as crypto/x509 builds them at the instant at. Presented
// certificates that may not issue are set aside first, so they are in no path;
// they are only an error when no path is left without them.
func findPaths(leaf *x509.Certificate, rest []link, anchors []*x509.Certificate, at time.Time) ([][]*x509.Certificate, error) {
	issuers, aside, err := readIssuers(rest)
	if err != nil {
		return nil, err
	}
	line := lineUp(leaf, issuers)
	paths, err := leaf.Verify(x509.VerifyOptions{
		Roots:         pool(anchors),
		Intermediates: pool(line),
		CurrentTime:   at,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageAny}, // checked by checkLeaf and checkIssuer
	})
	switch {
	case err == nil:
		return paths, nil
	case aside != nil:
		return nil, aside
	}
	return nil, explain(err, leaf, line, anchors, at)
}

// lineUp picks from the presented issuers one line that leads up from the leaf
// by name, no name twice. It keeps path building from branching: a peer can
// present certificates that sign each other in so many ways that checking them
// all takes a second, and a signature is checked before anything is known of
// the peer.
func lineUp(leaf *x509.Certificate, issuers []*x509.Certificate) []*x509.Certificate {
	var line []*x509.Certificate
	named := map[string]bool{}
	for current := leaf; !named[string(current.RawIssuer)]; {
		named[string(current.RawIssuer)] = true
		next := issuerByName(current, issuers)
		if next == nil {
			break
		}
		line = append(line, next)
		current = next
	}
	return line
}

// issuerByName gives the certificate that seems to have issued cert: it has the
// right name and, if there is a choice, the key identifier that cert wants.
func issuerByName(cert *x509.Certificate, from []*x509.Certificate) *x509.Certificate {
	var first *x509.Certificate
	for _, candidate := range from {
		if !bytes.Equal(candidate.RawSubject, cert.RawIssuer) {
			continue
		}
		if bytes.Equal(candidate.SubjectKeyId, cert.AuthorityKeyId) {
			return candidate
		}
		if first == nil {
			first = candidate
		}
	}
	return first
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

// explain says why crypto/x509 found no path. It follows the line by name and
// checks no signature again. The answer refuses in any case; only its reason is
// at stake.
func explain(cause error, leaf *x509.Certificate, line, anchors []*x509.Certificate, at time.Time) error {
	var invalid x509.CertificateInvalidError
	if errors.As(cause, &invalid) {
		switch invalid.Reason {
		case x509.CANotAuthorizedForThisName:
			return refuse(NameConstraints, "an issuer may not issue this name: %.200q", cause.Error())
		case x509.NoValidChains:
			return refuse(PolicyExtension, "certificate policies leave no path: %.200q", cause.Error())
		}
	}
	path := upToAnchor(leaf, line, anchors)
	if path == nil {
		return refuse(Untrusted, "no anchor of the trust domain issued the chain")
	}
	for depth, issuer := range path {
		if err := issuerFault(issuer, depth, at); err != nil {
			return err
		}
	}
	return refuse(BadSignature, "the signature is not by the issuer that the certificate names")
}

// upToAnchor gives the issuers from leaf's to the first anchor that the line
// comes by; nil if it comes by none.
func upToAnchor(leaf *x509.Certificate, line, anchors []*x509.Certificate) []*x509.Certificate {
	current := leaf
	for depth := 0; ; depth++ {
		if anchor := issuerByName(current, anchors); anchor != nil {
			return append(line[:depth:depth], anchor)
		}
		if depth == len(line) {
			return nil
		}
		current = line[depth]
	}
}

// issuerFault says what keeps issuer from standing above depth other issuers.
func issuerFault(issuer *x509.Certificate, depth int, at time.Time) error {
	switch {
	case at.Before(issuer.NotBefore) || at.After(issuer.NotAfter):
		return refuse(CAExpired, "the issuer %.100q is valid from %s to %s", issuer.Subject,
			issuer.NotBefore.Format(time.RFC3339), issuer.NotAfter.Format(time.RFC3339))
	case issuer.MaxPathLen >= 0 && depth > issuer.MaxPathLen:
		return refuse(PathLength, "the issuer %.100q allows %d issuers below it", issuer.Subject, issuer.MaxPathLen)
	}
	return nil
}
