// Package oidc starts a real OpenID provider (node's oidc-provider, certified for
// OpenID Connect), whose users and clients a test names.
package oidc

import (
	"bytes"
	"context"
	"crypto/tls"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/e2e/stage/node"
	"github.com/authsec-ai/icp/e2e/stage/pki"
)

//go:embed provider.mjs
var module string

// Client is a program that is registered with the provider.
type Client struct {
	ID           string
	Secret       string // sent by HTTP Basic; without one it is a public client, with PKCE
	RedirectURIs []string
	Algorithm    string // of its ID tokens and JWT access tokens: RS256 if empty, or ES256
}

// User is somebody who can sign in: by name, without a password.
type User struct {
	Name   string         // the sub of the tokens
	Claims map[string]any // more claims of the tokens: email, groups, …
}

// Options says whom a provider knows.
type Options struct {
	Clients  []Client
	Users    []User
	Lifetime time.Duration // of tokens, whole seconds; zero is an hour
}

// Discovery is what the provider says of itself, as far as tests need it.
type Discovery struct {
	Issuer                string `json:"issuer"`
	AuthorizationEndpoint string `json:"authorization_endpoint"`
	TokenEndpoint         string `json:"token_endpoint"`
	JWKSURI               string `json:"jwks_uri"`
}

// Provider is an OpenID provider on a loopback port. It speaks HTTPS, as issuers
// must, with a certificate of an authority of its own.
type Provider struct {
	Issuer    string // https://127.0.0.1:PORT
	CAFile    string // PEM; a Go program trusts it with SSL_CERT_FILE
	Authority *pki.Authority
	HTTP      *http.Client // trusts the provider
	Discovery Discovery
	Process   *stage.Process

	options  Options
	settings []byte
}

// Start starts a provider and waits until it answers.
func Start(t stage.T, o Options) *Provider {
	t.Helper()
	authority, port := pki.New(t, "stage OpenID CA"), stage.FreePort(t)
	p := &Provider{
		Issuer: fmt.Sprintf("https://127.0.0.1:%d", port), CAFile: authority.File(t), Authority: authority, options: o,
		HTTP: &http.Client{
			Timeout:   30 * time.Second,
			Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: authority.Pool()}, DisableKeepAlives: true},
		},
	}
	chain, key := pki.PairPEM(t, authority.Server(t, "127.0.0.1"))
	p.settings = settings(t, o, map[string]any{"issuer": p.Issuer, "port": port, "chain": string(chain), "key": string(key)})
	p.run(t)
	return p
}

// Restart stops the provider and starts it again with new signing keys.
func (p *Provider) Restart(t stage.T) {
	t.Helper()
	p.Process.Stop()
	p.run(t)
}

func (p *Provider) run(t stage.T) {
	t.Helper()
	cmd := node.Command(t, module)
	cmd.Stdin = bytes.NewReader(p.settings)
	p.Process = stage.Start(t, "oidc", cmd)
	p.Process.WaitReady(t, time.Minute, func() error {
		return p.get(t.Context(), p.Issuer+"/.well-known/openid-configuration", &p.Discovery)
	})
	if p.Discovery.Issuer != p.Issuer {
		t.Fatalf("the provider at %s says that it is %q", p.Issuer, p.Discovery.Issuer)
	}
}

// Keys fetches the keys that tokens verify against.
func (p *Provider) Keys(t stage.T) jose.JSONWebKeySet {
	t.Helper()
	var keys jose.JSONWebKeySet
	if err := p.get(t.Context(), p.Discovery.JWKSURI, &keys); err != nil {
		t.Fatalf("fetch the provider's keys: %v", err)
	}
	return keys
}

func (p *Provider) get(ctx context.Context, url string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := p.HTTP.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(resp.Body) // the status tells enough
		return fmt.Errorf("%s: %s: %s", url, resp.Status, body)
	}
	return json.NewDecoder(resp.Body).Decode(into)
}

// settings gives what the module reads: the rest is added to the options.
func settings(t stage.T, o Options, rest map[string]any) []byte {
	t.Helper()
	if o.Lifetime == 0 {
		o.Lifetime = time.Hour
	}
	rest["lifetime"] = int(o.Lifetime / time.Second)
	clients, users := []map[string]any{}, []map[string]any{}
	for _, c := range o.Clients {
		clients = append(clients, c.metadata())
	}
	for _, u := range o.Users {
		if u.Claims == nil {
			u.Claims = map[string]any{}
		}
		users = append(users, map[string]any{"name": u.Name, "claims": u.Claims})
	}
	rest["clients"], rest["users"] = clients, users
	raw, err := json.Marshal(rest)
	if err != nil {
		t.Fatalf("write the provider's settings: %v", err)
	}
	return raw
}

// metadata describes the client in the terms of OpenID Connect Dynamic Client
// Registration 1.0.
func (c Client) metadata() map[string]any {
	algorithm := c.Algorithm
	if algorithm == "" {
		algorithm = "RS256"
	}
	m := map[string]any{
		"client_id": c.ID, "token_endpoint_auth_method": "none", "id_token_signed_response_alg": algorithm,
		"redirect_uris": append([]string{}, c.RedirectURIs...),
	}
	grants, responses := []string{}, []string{}
	if c.Secret != "" {
		m["client_secret"], m["token_endpoint_auth_method"] = c.Secret, "client_secret_basic"
		grants = append(grants, "client_credentials")
	}
	if len(c.RedirectURIs) > 0 {
		grants, responses = append(grants, "authorization_code"), append(responses, "code")
	}
	m["grant_types"], m["response_types"] = grants, responses
	return m
}
