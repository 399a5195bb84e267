package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"

	"github.com/authsec-ai/icp/policy/source"
	"github.com/authsec-ai/icp/proxy/upstream"
)

// policySource keeps the policies current.
type policySource interface {
	Run(context.Context, source.Sink) error
	State() source.State
}

func newPolicySource(config Policies, self upstream.Identity, log *slog.Logger) (policySource, error) {
	switch {
	case (config.File == "") == (config.Server == ""):
		return nil, errors.New("policies: name a file or a server, and not both")
	case config.File != "":
		return source.NewFile(source.FileConfig{Path: config.File, Log: log})
	}
	roots, err := upstream.Roots(config.ServerCAFile)
	if err != nil {
		return nil, err
	}
	transport := source.Transport(&tls.Config{
		MinVersion: tls.VersionTLS12,
		RootCAs:    roots,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return self.Certificate()
		},
	})
	return source.NewServer(source.ServerConfig{
		URL: config.Server, Transport: transport, CacheFile: config.CacheFile, Lease: config.Lease, Log: log,
	})
}
