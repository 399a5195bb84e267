package server

import (
	"crypto/tls"
	"slices"

	"github.com/authsec-ai/icp/internal/wire"
)

// tlsConfig follows Mozilla's intermediate profile: TLS 1.2 and up, forward
// secrecy and authenticated encryption only (SPIFFE Federation section 5.1.1).
func tlsConfig(certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)) *tls.Config {
	base := &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: certificate,
		NextProtos:     []string{"h2", "http/1.1"},
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
	}
	asking := base.Clone()
	// The certificate is asked for and not verified here: package authn does
	// that for every request, and a client without one gets an answer it can read.
	asking.ClientAuth = tls.RequestClientCert
	// A resumed session would show a certificate that was sent some time ago.
	asking.SessionTicketsDisabled = true
	base.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if slices.Contains(hello.SupportedProtos, wire.ALPN) {
			return asking, nil
		}
		return nil, nil
	}
	return base
}
