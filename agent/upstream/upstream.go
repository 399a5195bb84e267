// Package upstream is the agent's client of the server: JSON over HTTP/2 with
// mutual TLS, outbound only.
//
// A server that can't be reached, or answers what is no answer of ours, is
// Unavailable: nothing is concluded from what a middlebox says. Every other
// error is the server's own, with its code.
package upstream

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/wire"
)

// Config says where the server is and how both sides are known.
type Config struct {
	URL   string         // https://host:port, possibly with a path before /api
	Roots *x509.CertPool // that the server's certificate must chain to; nil means the system's
	// Certificate gives the agent's current SVID, for every route but attest.
	Certificate func() (*tls.Certificate, error)
	// Rejected is told when the server does not take that SVID; nil tells nobody.
	Rejected func()
	// Silence is how long a stream may say nothing; 0 means wire.Silence.
	Silence time.Duration
}

// Client talks to one server. Make it with New and Close it.
type Client struct {
	base    string
	cfg     Config
	unnamed *http.Transport // shows no certificate

	mu    sync.Mutex
	named *session
}

// session is what shows one certificate.
type session struct {
	transport *http.Transport
	replaced  chan struct{} // closed when a newer certificate is to be shown
}

const (
	requestTimeout = 20 * time.Second
	maxAnswer      = 8 << 20 // a batch of the largest size takes about 2 MiB
)

// New refuses an address that is not https.
func New(cfg Config) (*Client, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("server address: %w", err)
	}
	if u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("server address %q is not of the form https://host:port", cfg.URL)
	}
	if cfg.Certificate == nil {
		return nil, errors.New("upstream: Certificate is required")
	}
	if cfg.Rejected == nil {
		cfg.Rejected = func() {}
	}
	if cfg.Silence == 0 {
		cfg.Silence = wire.Silence
	}
	c := &Client{base: strings.TrimRight(u.String(), "/"), cfg: cfg}
	c.unnamed = c.transport("h2")
	c.named = c.newSession()
	return c, nil
}

func (c *Client) newSession() *session {
	t := c.transport(wire.ALPN, "h2")
	t.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return c.cfg.Certificate()
	}
	return &session{transport: t, replaced: make(chan struct{})}
}

func (c *Client) transport(protocols ...string) *http.Transport {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: c.cfg.Roots, NextProtos: protocols},
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: requestTimeout,
		IdleConnTimeout:       time.Minute,
		ForceAttemptHTTP2:     true,
		HTTP2:                 &http.HTTP2Config{SendPingTimeout: c.cfg.Silence, PingTimeout: 10 * time.Second},
	}
}

// Reconnect has new connections show the current certificate. Streams end, so
// that they are opened again with it; requests under way are answered.
func (c *Client) Reconnect() {
	c.mu.Lock()
	old := c.named
	c.named = c.newSession()
	c.mu.Unlock()
	close(old.replaced)
	old.transport.CloseIdleConnections()
}

// Close releases idle connections. Requests must have ended.
func (c *Client) Close() {
	c.session().transport.CloseIdleConnections()
	c.unnamed.CloseIdleConnections()
}

func (c *Client) session() *session {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.named
}

// Attest asks for an agent SVID, showing no certificate.
func (c *Client) Attest(ctx context.Context, req wire.AttestRequest) (wire.AttestResponse, error) {
	var resp wire.AttestResponse
	err := c.post(ctx, c.unnamed, wire.PathAttest, req, &resp)
	return resp, err
}

// Renew asks for a new agent SVID for the same key.
func (c *Client) Renew(ctx context.Context, req wire.RenewRequest) (wire.AttestResponse, error) {
	var resp wire.AttestResponse
	err := c.post(ctx, c.session().transport, wire.PathRenew, req, &resp)
	return resp, err
}

// Sign asks for X.509-SVIDs.
func (c *Client) Sign(ctx context.Context, req wire.SignRequest) (wire.SignResponse, error) {
	var resp wire.SignResponse
	err := c.noteRejected(c.post(ctx, c.session().transport, wire.PathSign, req, &resp))
	return resp, err
}

// SignJWT asks for JWT-SVIDs.
func (c *Client) SignJWT(ctx context.Context, req wire.SignJWTRequest) (wire.SignJWTResponse, error) {
	var resp wire.SignJWTResponse
	err := c.noteRejected(c.post(ctx, c.session().transport, wire.PathSignJWT, req, &resp))
	return resp, err
}

// noteRejected tells of an SVID that the server did not take, and gives err on.
func (c *Client) noteRejected(err error) error {
	if identity.CodeOf(err) == identity.Unauthenticated {
		c.cfg.Rejected()
	}
	return err
}

func (c *Client) post(ctx context.Context, via *http.Transport, path string, body, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	raw, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode the request for %s: %w", path, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+path, bytes.NewReader(raw))
	if err != nil {
		return fmt.Errorf("make the request for %s: %w", path, err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := send(via, req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	raw, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err == nil && len(raw) > maxAnswer {
		err = fmt.Errorf("it is longer than %d bytes", maxAnswer)
	}
	if err == nil {
		err = json.Unmarshal(raw, answer)
	}
	if err != nil {
		return unavailable(err, "read the server's answer on %s", path)
	}
	return nil
}

// send gives an answer of status 200; anything else is an error. Redirects are
// not followed: a server of ours sends none.
func send(via http.RoundTripper, req *http.Request) (*http.Response, error) {
	resp, err := via.RoundTrip(req)
	if err != nil {
		return nil, unreachable(err, req.URL.Host)
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		return nil, problem(resp)
	}
	return resp, nil
}

func unreachable(err error, host string) error {
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) {
		return unavailable(err, "the certificate of server %s is not trusted; name the file of the CA that issued it", host)
	}
	return unavailable(err, "server %s can't be reached", host)
}

func unavailable(cause error, format string, args ...any) error {
	e := identity.Errorf(identity.Unavailable, format, args...)
	e.Err = cause
	return e
}

// problem reads an error of the server (RFC 9457).
func problem(resp *http.Response) error {
	var p struct {
		Code   identity.Code `json:"code"`
		Detail string        `json:"detail"`
		ID     string        `json:"id"`
	}
	const maxProblem = 64 << 10
	err := json.NewDecoder(io.LimitReader(resp.Body, maxProblem)).Decode(&p)
	isProblem := strings.HasPrefix(resp.Header.Get("Content-Type"), "application/problem+json")
	if err != nil || !isProblem || !known(p.Code) {
		return identity.Errorf(identity.Unavailable, "what answers at the server's address is not the server: %s", resp.Status)
	}
	return &identity.Error{Code: p.Code, Message: identity.Clip(p.Detail), ID: p.ID}
}

// known reports whether code is one of ours. A server's Internal is Unavailable
// to its clients: it may be mended.
func known(code identity.Code) bool {
	switch code {
	case identity.Invalid, identity.Unauthenticated, identity.Denied, identity.NotFound, identity.Conflict,
		identity.TooLarge, identity.Unsupported, identity.LimitExceeded, identity.RateLimited,
		identity.Unavailable, identity.Internal:
		return true
	}
	return false
}
