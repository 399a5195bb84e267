package ca

import (
	"crypto/x509"
	"errors"
	"fmt"
)

// lintLeaf checks a signed X.509-SVID before it is released.
func lintLeaf(der []byte) error {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	switch {
	case cert.IsCA || !cert.BasicConstraintsValid:
		return errors.New("leaf is a CA or lacks basic constraints")
	case cert.KeyUsage != x509.KeyUsageDigitalSignature:
		return fmt.Errorf("leaf has key usage %b", cert.KeyUsage)
	case len(cert.URIs) != 1 || cert.URIs[0].Path == "":
		return fmt.Errorf("leaf has %d URIs, or one without a path", len(cert.URIs))
	case len(cert.ExtKeyUsage) != 2:
		return fmt.Errorf("leaf has %d extended key usages", len(cert.ExtKeyUsage))
	}
	return nil
}

// lintAuthority checks the certificate of an anchor or issuer.
func lintAuthority(der []byte) error {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	switch {
	case !cert.IsCA || cert.MaxPathLen < 0 || cert.MaxPathLen > 1:
		return errors.New("authority is not a CA or its path length is not limited")
	case cert.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign:
		return fmt.Errorf("authority has key usage %b", cert.KeyUsage)
	case len(cert.URIs) != 1 || cert.URIs[0].Path != "":
		return fmt.Errorf("authority has %d URIs, or one with a path", len(cert.URIs))
	case len(cert.ExtKeyUsage)+len(cert.UnknownExtKeyUsage) != 0:
		return errors.New("authority has extended key usages")
	}
	return nil
}
