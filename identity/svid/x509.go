package svid

import (
	"crypto/x509"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/crypto/cryptobyte"
	casn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// link is one certificate of a presented chain; cert is nil until it is parsed.
type link struct {
	der  []byte
	cert *x509.Certificate
}

// VerifyX509 checks a chain as a peer sent it (DER, leaf first, anchors not
// needed) and gives the identity it proves. It reads a chain in the order of
// ever more work: a chain of the wrong trust domain never costs a signature
// check. Every error is an *Error; on any doubt the chain is refused.
func VerifyX509(chain [][]byte, bundles x509bundle.Source, opts X509Options) (*X509, error) {
	links := make([]link, min(len(chain), MaxChainCerts+1))
	for i := range links {
		links[i].der = chain[i]
	}
	return verifyLinks(links, bundles, opts)
}

// VerifyParsed is VerifyX509 for a chain that crypto/x509 has parsed already,
// such as tls.ConnectionState.PeerCertificates; it saves parsing it again.
func VerifyParsed(chain []*x509.Certificate, bundles x509bundle.Source, opts X509Options) (*X509, error) {
	links := make([]link, min(len(chain), MaxChainCerts+1))
	for i := range links {
		links[i] = link{der: chain[i].Raw, cert: chain[i]}
	}
	return verifyLinks(links, bundles, opts)
}

func verifyLinks(links []link, bundles x509bundle.Source, opts X509Options) (*X509, error) {
	// 1. Options and sizes.
	if err := opts.check(); err != nil {
		return nil, err
	}
	if err := checkSizes(links); err != nil {
		return nil, err
	}
	// 2. DER, raw SAN, SPIFFE ID.
	raw, err := readCert(links[0].der)
	if err != nil {
		return nil, err
	}
	id, err := leafID(raw)
	if err != nil {
		return nil, err
	}
	// 3. What a leaf may be.
	leaf, err := parseLink(&links[0], raw, WeakKey)
	if err != nil {
		return nil, err
	}
	if err := checkLeaf(raw, leaf, id); err != nil {
		return nil, err
	}
	// 4. The bundle of the ID's trust domain, and no other.
	anchors, err := anchorsOf(id.TrustDomain(), bundles)
	if err != nil {
		return nil, err
	}
	// 5. Paths to its anchors.
	at := within(opts.Now, leaf.NotBefore, leaf.NotAfter)
	paths, err := findPaths(leaf, links[1:], anchors, at)
	if err != nil {
		return nil, err
	}
	// 6. Time, with the tolerated skew.
	if err := checkTime(leaf, opts); err != nil {
		return nil, err
	}
	// 7. The issuers' own IDs.
	path, err := choosePath(paths, id.TrustDomain())
	if err != nil {
		return nil, err
	}
	// 8. Revocation.
	serial := Serial(leaf)
	if opts.Revoked != nil && opts.Revoked(id, serial) {
		return nil, refuse(RevokedSVID, "certificate %s of %s is revoked", serial, id)
	}
	return &X509{
		ID: id, Leaf: leaf, Serial: serial,
		NotAfter: earliestEnd(path), Lifetime: leaf.NotAfter.Sub(leaf.NotBefore),
	}, nil
}

// Serial gives a certificate's serial number as the whole project spells it:
// lower-case hex without leading zeros.
func Serial(cert *x509.Certificate) string { return cert.SerialNumber.Text(16) }

func checkSizes(links []link) error {
	if len(links) == 0 {
		return refuse(EmptyChain, "the peer presented no certificate")
	}
	if len(links) > MaxChainCerts {
		return refuse(TooLarge, "the chain has more than %d certificates", MaxChainCerts)
	}
	size := 0
	for _, l := range links {
		size += len(l.der)
	}
	if size > MaxChainBytes {
		return refuse(TooLarge, "the chain is %d bytes long; the limit is %d", size, MaxChainBytes)
	}
	return nil
}

// parseLink applies the key policy and has crypto/x509 parse the certificate,
// unless it has already. A key outside the policy is refused as weak.
func parseLink(l *link, raw *rawCert, weak Reason) (*x509.Certificate, error) {
	if err := checkRawKey(raw.spki); err != nil {
		return nil, refuse(weak, "the certificate's key is not accepted: %s", err)
	}
	if l.cert == nil {
		cert, err := x509.ParseCertificate(l.der)
		if err != nil {
			return nil, refuse(Malformed, "the certificate can't be parsed: %.200q", err.Error())
		}
		l.cert = cert
	}
	if err := checkKey(l.cert.PublicKey); err != nil {
		return nil, refuse(weak, "the certificate's key is not accepted: %s", err)
	}
	return l.cert, nil
}

// checkLeaf applies the rules that a leaf breaks or keeps by itself (X509-SVID
// sections 4 and 5.2).
func checkLeaf(raw *rawCert, leaf *x509.Certificate, id spiffeid.ID) error {
	if err := checkBasicConstraints(raw); err != nil {
		return err
	}
	if id.Path() == "" {
		return refuse(NoPath, "%s names a trust domain and not a workload", id)
	}
	if err := checkLeafKeyUsage(raw, leaf); err != nil {
		return err
	}
	if !servesAndCalls(leaf, raw.find(oidExtKeyUsage) != nil) {
		return refuse(BadExtKeyUsage, "the extended key usage lacks serverAuth or clientAuth")
	}
	return checkLeafRest(raw, leaf)
}

func checkLeafRest(raw *rawCert, leaf *x509.Certificate) error {
	switch {
	case raw.find(oidNameConstraints) != nil:
		return refuse(LeafConstraints, "a leaf must not have name constraints")
	case tooManyPolicies(leaf):
		return refuse(PolicyExtension, "the leaf has policy mappings or more than %d policies", maxPolicies)
	case len(leaf.UnhandledCriticalExtensions) > 0:
		return refuse(CriticalExtension, "the leaf has the unknown critical extension %s", leaf.UnhandledCriticalExtensions[0])
	case !strongSignature(leaf.SignatureAlgorithm):
		return refuse(WeakSignature, "the leaf's signature algorithm %s is not accepted", leaf.SignatureAlgorithm)
	case leaf.NotAfter.Before(leaf.NotBefore):
		return refuse(BadValidity, "the leaf's validity ends before it begins")
	case leaf.NotAfter.Year() >= 9999:
		return refuse(BadValidity, "the leaf never expires")
	}
	return nil
}

// checkBasicConstraints refuses a CA, and a path length where there is no CA.
// An absent extension says the same as cA false.
func checkBasicConstraints(raw *rawCert) error {
	e := raw.find(oidBasicConstraints)
	if e == nil {
		return nil
	}
	ca, pathLength, ok := readBasicConstraints(e.value)
	switch {
	case !ok:
		return refuse(Malformed, "the basic constraints are malformed")
	case ca:
		return refuse(LeafIsCA, "the leaf is a CA certificate; a signing certificate never authenticates a peer")
	case pathLength:
		return refuse(LeafPathLength, "the leaf has a path length")
	}
	return nil
}

// readBasicConstraints reads SEQUENCE { cA BOOLEAN DEFAULT FALSE,
// pathLenConstraint INTEGER OPTIONAL }.
func readBasicConstraints(value cryptobyte.String) (ca, pathLength, ok bool) {
	var seq, n cryptobyte.String
	if !value.ReadASN1(&seq, casn1.SEQUENCE) || !value.Empty() {
		return false, false, false
	}
	if seq.PeekASN1Tag(casn1.BOOLEAN) && !seq.ReadASN1Boolean(&ca) {
		return false, false, false
	}
	ok = seq.ReadOptionalASN1(&n, &pathLength, casn1.INTEGER) && seq.Empty()
	return ca, pathLength, ok
}

func checkLeafKeyUsage(raw *rawCert, leaf *x509.Certificate) error {
	e := raw.find(oidKeyUsage)
	switch {
	case e == nil:
		return refuse(NoKeyUsage, "the leaf has no key usage")
	case !e.critical:
		return refuse(KeyUsageNotCrit, "the leaf's key usage is not critical")
	case leaf.KeyUsage&x509.KeyUsageCertSign != 0:
		return refuse(LeafSignsCerts, "the leaf's key usage has keyCertSign")
	case leaf.KeyUsage&x509.KeyUsageCRLSign != 0:
		return refuse(LeafSignsCRLs, "the leaf's key usage has cRLSign")
	case leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return refuse(NoDigitalSignature, "the leaf's key usage lacks digitalSignature")
	}
	return nil
}

// servesAndCalls reports whether an extended key usage, if there is one, has
// both serverAuth and clientAuth (X509-SVID section 4.4).
func servesAndCalls(cert *x509.Certificate, present bool) bool {
	if !present {
		return true
	}
	var server, client bool
	for _, usage := range cert.ExtKeyUsage {
		server = server || usage == x509.ExtKeyUsageServerAuth
		client = client || usage == x509.ExtKeyUsageClientAuth
	}
	return server && client
}

// maxPolicies bounds certificate policies; SPIFFE uses none, others a few.
const maxPolicies = 16

func tooManyPolicies(cert *x509.Certificate) bool {
	return len(cert.PolicyMappings) > 0 || len(cert.Policies) > maxPolicies
}

// anchorsOf gives the usable anchors of one trust domain.
func anchorsOf(td spiffeid.TrustDomain, bundles x509bundle.Source) ([]*x509.Certificate, error) {
	if bundles == nil {
		return nil, refuse(BadOptions, "there is no bundle source")
	}
	bundle, err := bundles.GetX509BundleForTrustDomain(td)
	if err != nil || bundle == nil || bundle.TrustDomain() != td {
		return nil, refuse(UnknownDomain, "there is no X.509 bundle for trust domain %q", td)
	}
	var usable []*x509.Certificate
	for _, anchor := range bundle.X509Authorities() {
		if checkIssuer(anchor) == nil {
			usable = append(usable, anchor)
		}
	}
	if len(usable) == 0 {
		return nil, refuse(NoAuthorities, "the X.509 bundle of trust domain %q has no usable anchor", td)
	}
	return usable, nil
}

// within gives the instant of [from, to] that is nearest to t.
func within(t, from, to time.Time) time.Time {
	switch {
	case t.Before(from):
		return from
	case t.After(to):
		return to
	}
	return t
}

func checkTime(leaf *x509.Certificate, opts X509Options) error {
	switch {
	case opts.Now.Before(leaf.NotBefore.Add(-opts.Skew)):
		return refuse(NotYetValid, "the certificate is valid from %s", leaf.NotBefore.Format(time.RFC3339))
	case opts.Now.After(leaf.NotAfter.Add(opts.Skew)):
		return refuse(Expired, "the certificate expired at %s", leaf.NotAfter.Format(time.RFC3339))
	}
	return nil
}

func earliestEnd(path []*x509.Certificate) time.Time {
	end := path[0].NotAfter
	for _, cert := range path[1:] {
		if cert.NotAfter.Before(end) {
			end = cert.NotAfter
		}
	}
	return end
}
