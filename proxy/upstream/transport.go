package upstream

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/authsec-ai/icp/identity/svid"
)

// Identity is the proxy's own SVID and the bundles it trusts, as they are at
// the time of the call.
type Identity interface {
	Certificate() (*tls.Certificate, error)
	x509bundle.Source
}

// ErrIdentity means that an upstream is not who the route says.
var ErrIdentity = errors.New("the upstream did not prove the SPIFFE ID of its route")

// newTransport makes the connection pool of one backend. Nothing is taken from
// the environment, and answers pass as they are.
func newTransport(route Route, pin spiffeid.ID, self Identity, now func() time.Time) (*http.Transport, error) {
	config, err := tlsConfig(route, pin, self, now)
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}
	return &http.Transport{
		DialContext:            dialer.DialContext,
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    5 * time.Second,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true,
		MaxIdleConnsPerHost:    256,
		IdleConnTimeout:        60 * time.Second,
		ResponseHeaderTimeout:  route.HeaderTimeout,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		WriteBufferSize:        16 << 10,
		ReadBufferSize:         16 << 10,
	}, nil
}

func tlsConfig(route Route, pin spiffeid.ID, self Identity, now func() time.Time) (*tls.Config, error) {
	if !pin.IsZero() {
		return pinned(pin, self, now), nil
	}
	roots, err := Roots(route.UpstreamCAFile)
	if err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}, nil
}

// Roots reads the certificates of a PEM file; nil, for the system's, if file is
// empty.
func Roots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the CA file: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("CA file %s holds no certificate", file)
	}
	return roots, nil
}

// pinned is mutual TLS in which only the holder of the ID pin is accepted.
// Sessions are not resumed, so every connection is verified in full.
func pinned(pin spiffeid.ID, self Identity, now func() time.Time) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, // VerifyConnection does it, by SPIFFE's rules
		VerifyConnection: func(state tls.ConnectionState) error {
			return verify(state, pin, self, now())
		},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return self.Certificate()
		},
	}
}

func verify(state tls.ConnectionState, pin spiffeid.ID, bundles x509bundle.Source, now time.Time) error {
	chain := make([][]byte, len(state.PeerCertificates))
	for i, cert := range state.PeerCertificates {
		chain[i] = cert.Raw
	}
	peer, err := svid.VerifyX509(chain, bundles, svid.X509Options{Now: now})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrIdentity, err)
	}
	if peer.ID != pin {
		return fmt.Errorf("%w: it is %s, not %s", ErrIdentity, peer.ID, pin)
	}
	return nil
}
