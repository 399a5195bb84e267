package oidc

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"slices"
	"strings"

	"github.com/authsec-ai/icp/e2e/stage"
)

// Answer is what the token endpoint says.
type Answer struct {
	Status      int    `json:"-"`
	ID          string `json:"id_token"`
	Access      string `json:"access_token"` // a JWT if it has an audience
	Error       string `json:"error"`        // invalid_client, invalid_grant, …
	Description string `json:"error_description"`
}

// ClientToken gives a JWT access token of a client of its own right, for an
// audience, which is an absolute URI.
func (p *Provider) ClientToken(t stage.T, clientID, audience string) string {
	t.Helper()
	a := p.Token(t, clientID, p.client(t, clientID).Secret, url.Values{"grant_type": {"client_credentials"}, "resource": {audience}})
	if a.Status != http.StatusOK {
		t.Fatalf("get a token for client %s and audience %s: %d %s: %s", clientID, audience, a.Status, a.Error, a.Description)
	}
	return a.Access
}

// UserToken gives the ID token that a client gets when a user signs in.
func (p *Provider) UserToken(t stage.T, clientID, user string) string {
	t.Helper()
	return p.SignIn(t, clientID, user, "").ID
}

// SignIn goes through the authorization code flow with PKCE at the client's
// first redirect URI. The answer's access token is for the audience, an absolute
// URI, or for the provider alone if that is empty.
func (p *Provider) SignIn(t stage.T, clientID, user, audience string) Answer {
	t.Helper()
	c := p.client(t, clientID)
	if len(c.RedirectURIs) == 0 {
		t.Fatalf("client %s has no redirect URI: users can't sign in to it", clientID)
	}
	verifier, state, redirect := rand.Text()+rand.Text(), rand.Text(), c.RedirectURIs[0]
	challenge := sha256.Sum256([]byte(verifier))
	ask := url.Values{
		"client_id": {clientID}, "response_type": {"code"}, "scope": {"openid"}, "redirect_uri": {redirect}, "state": {state},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(challenge[:])}, "code_challenge_method": {"S256"},
	}
	form := url.Values{"grant_type": {"authorization_code"}, "redirect_uri": {redirect}, "code_verifier": {verifier}}
	if audience != "" {
		ask.Set("resource", audience)
		form.Set("resource", audience)
	}
	back := p.Authorize(t, p.Discovery.AuthorizationEndpoint+"?"+ask.Encode(), user).Query()
	if back.Get("state") != state || back.Get("code") == "" {
		t.Fatalf("sign %s in to %s: the provider sent back %v", user, clientID, back)
	}
	form.Set("code", back.Get("code"))
	a := p.Token(t, clientID, c.Secret, form)
	if a.Status != http.StatusOK {
		t.Fatalf("redeem the code of %s: %d %s: %s", user, a.Status, a.Error, a.Description)
	}
	return a
}

// Authorize does what a user's browser does that a client has sent to the
// authorization endpoint: it signs in and gives the address where the provider
// sends it back, with code and state or an error, without going there.
func (p *Provider) Authorize(t stage.T, address, user string) *url.URL {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatalf("sign in: %v", err)
	}
	browser := &http.Client{Transport: p.HTTP.Transport, Timeout: p.HTTP.Timeout, Jar: jar,
		CheckRedirect: func(to *http.Request, via []*http.Request) error {
			if len(via) > 10 || !strings.HasPrefix(to.URL.String(), p.Issuer+"/") {
				return http.ErrUseLastResponse
			}
			return nil
		}}
	resp, err := browser.Get(address)
	if err == nil && resp.StatusCode == http.StatusOK { // the page that asks for the name
		_ = resp.Body.Close()
		resp, err = browser.PostForm(resp.Request.URL.String(), url.Values{"user": {user}})
	}
	if err != nil {
		t.Fatalf("sign in as %s: %v", user, err)
	}
	defer resp.Body.Close()
	back, err := resp.Location()
	if err != nil {
		body, _ := io.ReadAll(resp.Body)
		t.Fatalf("sign in as %s: the provider says %s: %s", user, resp.Status, body)
	}
	return back
}

// Token asks the token endpoint as a client with a secret, or as a public one.
func (p *Provider) Token(t stage.T, clientID, secret string, form url.Values) Answer {
	t.Helper()
	form = maps.Clone(form)
	form.Set("client_id", clientID)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.Discovery.TokenEndpoint, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatalf("ask for a token: %v", err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if secret != "" {
		req.SetBasicAuth(url.QueryEscape(clientID), url.QueryEscape(secret)) // RFC 6749, 2.3.1
	}
	a, err := p.ask(req)
	if err != nil {
		t.Fatalf("ask for a token: %v", err)
	}
	return a
}

func (p *Provider) ask(req *http.Request) (Answer, error) {
	resp, err := p.HTTP.Do(req)
	if err != nil {
		return Answer{}, err
	}
	defer resp.Body.Close()
	a := Answer{Status: resp.StatusCode}
	if err := json.NewDecoder(resp.Body).Decode(&a); err != nil {
		return a, fmt.Errorf("%s, and no JSON: %w", resp.Status, err)
	}
	return a, nil
}

func (p *Provider) client(t stage.T, id string) Client {
	t.Helper()
	i := slices.IndexFunc(p.options.Clients, func(c Client) bool { return c.ID == id })
	if i < 0 {
		t.Fatalf("the provider has no client %q", id)
	}
	return p.options.Clients[i]
}
