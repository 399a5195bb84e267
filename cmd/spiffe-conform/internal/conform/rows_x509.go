package conform

import (
	"context"
	"crypto/x509"
	"fmt"

	"github.com/authsec-ai/icp/cmd/spiffe-conform/internal/strict"
)

// x509Rows judge the certificates that this process was given (X509-SVID).
func x509Rows() []Row {
	leaf := func(id string, level Level, wants string, check func(*x509.Certificate) error) Row {
		return Row{ID: id, Level: level, Wants: wants, check: eachLeaf(check)}
	}
	signer := func(id string, level Level, wants string, check func(*x509.Certificate, chain) error) Row {
		return Row{ID: id, Level: level, Wants: wants, check: eachSigner(check)}
	}
	return []Row{
		leaf("X509-01", Must, "an SVID has exactly one URI name", oneURI),
		leaf("X509-03", Must, "a certificate without a URI name is no SVID", someURI),
		leaf("X509-05", Must, "the ID of a leaf has a path", leafPath),
		leaf("X509-06", Must, "the names are critical when the subject is empty", criticalNames),
		signer("X509-07", Must, "a signing certificate has cA and keyCertSign", signerSigns),
		signer("X509-09", Must, "the ID of a signing certificate, if it has one, has no path", signerPath),
		signer("X509-10", Should, "the ID of a signing certificate lies in the trust domain it signs for", signerDomain),
		leaf("X509-12", Must, "cA of a leaf is false", leafNoCA),
		{ID: "X509-15", Level: Must, Wants: "key usage is there and critical, on every SVID of the chain", check: usageCritical},
		signer("X509-16", Must, "a signing certificate's usage is keyCertSign, with or without cRLSign", signerUsage),
		leaf("X509-17", Must, "a leaf may sign: digitalSignature", leafSigns),
		leaf("X509-18", Must, "a leaf has neither keyCertSign nor cRLSign", leafNoCertSign),
		leaf("X509-19", Should, "a leaf has extended key usage with serverAuth and clientAuth", leafExtended),
		signer("X509-20", May, "a signing certificate has no extended key usage, which libraries read differently", signerNotExtended),
	}
}

type check = func(ctx context.Context, p *probe) (string, error)

func eachLeaf(judge func(*x509.Certificate) error) check {
	return func(_ context.Context, p *probe) (string, error) {
		chains, err := p.chains()
		if err != nil {
			return "", err
		}
		for _, c := range chains {
			if err := judge(c.leaf); err != nil {
				return "", fmt.Errorf("the SVID of %s %w", c.name, err)
			}
		}
		return fmt.Sprintf("%d SVIDs", len(chains)), nil
	}
}

func eachSigner(judge func(*x509.Certificate, chain) error) check {
	return func(_ context.Context, p *probe) (string, error) {
		chains, err := p.chains()
		if err != nil {
			return "", err
		}
		count := 0
		for _, c := range chains {
			for i, cert := range c.signers() {
				what := "an anchor"
				if i < len(c.intermediates) {
					what = "an intermediate"
				}
				if err := judge(cert, c); err != nil {
					return "", fmt.Errorf("%s of %s %w", what, c.name, err)
				}
				count++
			}
		}
		return fmt.Sprintf("%d signing certificates", count), nil
	}
}

func oneURI(cert *x509.Certificate) error {
	names, err := strict.SubjectNames(cert)
	if err == nil && len(names.URIs) > 1 {
		err = fmt.Errorf("has %d URI names: %q", len(names.URIs), names.URIs)
	}
	return err
}

func someURI(cert *x509.Certificate) error {
	names, err := strict.SubjectNames(cert)
	if err == nil && len(names.URIs) == 0 {
		err = fmt.Errorf("has no URI name")
	}
	return err
}

// leafID gives the one ID of a certificate.
func leafID(cert *x509.Certificate) (string, error) {
	names, err := strict.SubjectNames(cert)
	switch {
	case err != nil:
		return "", err
	case len(names.URIs) != 1:
		return "", fmt.Errorf("has %d URI names", len(names.URIs))
	}
	return names.URIs[0], nil
}

func leafPath(cert *x509.Certificate) error {
	id, err := leafID(cert)
	if err != nil {
		return err
	}
	if _, _, err := strict.WorkloadID(id); err != nil {
		return fmt.Errorf("has an ID that is none: %w", err)
	}
	return nil
}

func criticalNames(cert *x509.Certificate) error {
	names, err := strict.SubjectNames(cert)
	if err == nil && strict.EmptySubject(cert) && !names.Critical {
		err = fmt.Errorf("has an empty subject, but its names are not critical")
	}
	return err
}

func leafNoCA(cert *x509.Certificate) error {
	if cert.BasicConstraintsValid && cert.IsCA {
		return fmt.Errorf("has cA true")
	}
	return nil
}

func leafSigns(cert *x509.Certificate) error {
	if cert.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return fmt.Errorf("lacks digitalSignature")
	}
	return nil
}

func leafNoCertSign(cert *x509.Certificate) error {
	if cert.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 {
		return fmt.Errorf("has keyCertSign or cRLSign")
	}
	return nil
}

func leafExtended(cert *x509.Certificate) error {
	var server, client bool
	for _, usage := range cert.ExtKeyUsage {
		server = server || usage == x509.ExtKeyUsageServerAuth
		client = client || usage == x509.ExtKeyUsageClientAuth
	}
	if !server || !client {
		return fmt.Errorf("has extended key usage with serverAuth %t, clientAuth %t", server, client)
	}
	return nil
}

func signerSigns(cert *x509.Certificate, _ chain) error {
	if !cert.BasicConstraintsValid || !cert.IsCA || cert.KeyUsage&x509.KeyUsageCertSign == 0 {
		return fmt.Errorf("has cA %t, keyCertSign %t", cert.IsCA, cert.KeyUsage&x509.KeyUsageCertSign != 0)
	}
	return nil
}

func signerPath(cert *x509.Certificate, _ chain) error {
	names, err := strict.SubjectNames(cert)
	if err != nil {
		return err
	}
	for _, id := range names.URIs {
		if _, path, err := strict.ID(id); err != nil || path != "" {
			return fmt.Errorf("has the name %q, which is no trust domain's ID", id)
		}
	}
	return nil
}

func signerDomain(cert *x509.Certificate, c chain) error {
	names, err := strict.SubjectNames(cert)
	if err != nil {
		return err
	}
	own, _, err := strict.ID(c.name)
	if err != nil {
		return err
	}
	for _, id := range names.URIs {
		if trustDomain, _, _ := strict.ID(id); trustDomain != own { // a bad ID is in no trust domain
			return fmt.Errorf("has the name %q, which is outside %s", id, own)
		}
	}
	return nil
}

func signerUsage(cert *x509.Certificate, _ chain) error {
	if other := cert.KeyUsage &^ (x509.KeyUsageCertSign | x509.KeyUsageCRLSign); other != 0 {
		return fmt.Errorf("has usage bits %09b beside keyCertSign and cRLSign", other)
	}
	if cert.KeyUsage&x509.KeyUsageCertSign == 0 {
		return fmt.Errorf("lacks keyCertSign")
	}
	return nil
}

func signerNotExtended(cert *x509.Certificate, _ chain) error {
	if len(cert.ExtKeyUsage)+len(cert.UnknownExtKeyUsage) > 0 {
		return fmt.Errorf("has extended key usage")
	}
	return nil
}

// usageCritical looks at the leaf, and at those signing certificates that are
// SVIDs too.
func usageCritical(_ context.Context, p *probe) (string, error) {
	chains, err := p.chains()
	if err != nil {
		return "", err
	}
	count := 0
	for _, c := range chains {
		for _, cert := range append([]*x509.Certificate{c.leaf}, c.signers()...) {
			if names, err := strict.SubjectNames(cert); err != nil || len(names.URIs) == 0 {
				continue // no SVID
			}
			if present, critical := strict.KeyUsage(cert); !present || !critical {
				return "", fmt.Errorf("a certificate of %s (%q): key usage is there: %t, critical: %t", c.name, cert.Subject, present, critical)
			}
			count++
		}
	}
	return fmt.Sprintf("%d certificates", count), nil
}
