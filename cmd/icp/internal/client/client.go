// Package client speaks the server's REST API for administrators.
//
// Every failure is an *identity.Error: what the server refused with its code
// and words, or Unavailable if it could not be reached.
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/authsec-ai/icp/identity"
)

const (
	timeout        = 30 * time.Second // of one request
	maxAnswerBytes = 64 << 20
)

// Config says where the server is and who calls.
type Config struct {
	URL    string // "https://host:port"
	Token  string // API token
	CAs    []byte // PEM that the server's certificate must chain to; nil means the system's
	Tenant string // for platform administrators: the tenant to act on
}

// Client calls one server. It may be used by many at once.
type Client struct {
	url    string
	token  string
	tenant string
	http   *http.Client
}

// New checks cfg. Nothing is sent yet.
func New(cfg Config) (*Client, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, identity.Errorf(identity.Invalid, "%q is not the URL of a server; write it as https://host:port", identity.Clip(cfg.URL))
	}
	config := &tls.Config{}
	if cfg.CAs != nil {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(cfg.CAs) {
			return nil, identity.Errorf(identity.Invalid, "the CA file holds no PEM certificate")
		}
	}
	return &Client{
		url: strings.TrimSuffix(cfg.URL, "/"), token: cfg.Token, tenant: cfg.Tenant,
		http: &http.Client{
			Timeout:   timeout,
			Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true, Proxy: http.ProxyFromEnvironment},
			// A token is for this server alone.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// Close releases idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// request is one call. path is escaped already.
type request struct {
	method string
	path   string
	query  url.Values
	body   any    // encoded as JSON unless nil
	match  string // If-Match, "" for none
}

// do sends r and decodes the answer into out, unless that is nil.
func (c *Client) do(ctx context.Context, r request, out any) error {
	raw, err := c.raw(ctx, r)
	if err != nil || out == nil {
		return err
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return &identity.Error{Code: identity.Internal, Err: err, Message: "the server's answer does not decode; is the URL that of an ICP server of this version?"}
	}
	return nil
}

// raw gives the answer as it came.
func (c *Client) raw(ctx context.Context, r request) ([]byte, error) {
	req, err := c.newRequest(ctx, r)
	if err != nil {
		return nil, err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(res.Body, maxAnswerBytes+1))
	switch {
	case err != nil:
		return nil, c.unreachable(err)
	case len(raw) > maxAnswerBytes:
		return nil, identity.Errorf(identity.TooLarge, "the server's answer is over %d bytes", maxAnswerBytes)
	case res.StatusCode < 200 || res.StatusCode > 299:
		return nil, refusal(res, raw)
	}
	return raw, nil
}

func (c *Client) newRequest(ctx context.Context, r request) (*http.Request, error) {
	var body io.Reader
	if r.body != nil {
		raw, err := json.Marshal(r.body)
		if err != nil {
			return nil, fmt.Errorf("encode the request: %w", err)
		}
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, c.url+r.path, body)
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	query := r.query
	if c.tenant != "" {
		if query == nil {
			query = url.Values{}
		}
		query.Set("tenant_id", c.tenant)
	}
	req.URL.RawQuery = query.Encode()
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	if r.match != "" {
		req.Header.Set("If-Match", r.match)
	}
	return req, nil
}

// unreachable says in one line why there is no answer.
func (c *Client) unreachable(err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	hint := "is it running, and is the URL right?"
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) {
		hint = "name the certificate authority of the server with --ca-file"
	}
	return identity.Errorf(identity.Unavailable, "no answer from %s: %s; %s", c.url, err, hint)
}

// refusal is the server's problem document as an error.
func refusal(res *http.Response, raw []byte) error {
	var problem struct {
		Detail    string        `json:"detail"`
		Code      identity.Code `json:"code"`
		RequestID string        `json:"request_id"`
		ID        string        `json:"id"`
	}
	if json.Unmarshal(raw, &problem) != nil || problem.Detail == "" {
		return identity.Errorf(identity.Internal, "%s answers %s without a reason; is that an ICP server?", res.Request.URL.Host, res.Status)
	}
	e := identity.Errorf(problem.Code, "%s", problem.Detail)
	e.ID = problem.ID
	if problem.ID != "" {
		e.Message += " (in the way: " + problem.ID + ")"
	}
	if res.StatusCode >= 500 {
		e.Message += " (request " + problem.RequestID + ")"
	}
	return e
}
