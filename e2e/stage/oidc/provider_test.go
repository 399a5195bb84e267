package oidc

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/authsec-ai/icp/e2e/stage"
)

func TestProve(t *testing.T) { t.Log(Prove(t).Fact) }

var console = Client{ID: "console", Secret: "s3cret/+&", RedirectURIs: []string{"http://127.0.0.1/callback"}, Algorithm: "ES256"}

func claims(t *testing.T, keys jose.JSONWebKeySet, token string) (header jose.Header, claims map[string]any) {
	t.Helper()
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.RS256, jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	if err := parsed.Claims(keys.Key(parsed.Headers[0].KeyID)[0].Key, &claims); err != nil {
		t.Fatal(err)
	}
	return parsed.Headers[0], claims
}

func TestSignIn(t *testing.T) {
	ada := User{Name: "ada", Claims: map[string]any{"email": "ada@example.org", "groups": []string{"admins"}}}
	p := Start(t, Options{Clients: []Client{console}, Users: []User{ada, {Name: "bob"}}})
	const audience = "spiffe://test.example/server"
	answer := p.SignIn(t, "console", "ada", audience)
	for token, aud := range map[string]string{answer.ID: "console", answer.Access: audience} {
		header, got := claims(t, p.Keys(t), token)
		groups, _ := got["groups"].([]any)
		if header.Algorithm != "ES256" || got["iss"] != p.Issuer || got["sub"] != "ada" || got["aud"] != aud ||
			got["email"] != "ada@example.org" || !slices.Equal(groups, []any{"admins"}) {
			t.Errorf("a token for %s has header %v and claims %v", aud, header, got)
		}
	}
	if _, got := claims(t, p.Keys(t), p.UserToken(t, "console", "bob")); got["sub"] != "bob" || got["groups"] != nil {
		t.Errorf("bob's token has claims %v", got)
	}
}

// TestStrangers asks for what a provider must refuse.
func TestStrangers(t *testing.T) {
	p := Start(t, Options{Clients: []Client{console}, Users: []User{{Name: "ada"}}})
	ask := url.Values{"client_id": {"console"}, "response_type": {"code"}, "scope": {"openid"}, "redirect_uri": console.RedirectURIs}
	address := p.Discovery.AuthorizationEndpoint + "?" + ask.Encode()
	if back := p.Authorize(t, address, "ada"); back.Query().Get("code") == "" {
		t.Errorf("ada was sent back with %v; want a code", back)
	}
	if err := stage.Run(t.Context(), func(s *stage.Session) { p.Authorize(s, address, "mallory") }); err == nil {
		t.Error("somebody unknown has signed in")
	}
	ask.Set("redirect_uri", "http://127.0.0.1/elsewhere")
	resp, err := p.HTTP.Get(p.Discovery.AuthorizationEndpoint + "?" + ask.Encode())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("a redirect URI that is not registered got %s", resp.Status)
	}
	if got := p.Token(t, "console", console.Secret, url.Values{"grant_type": {"authorization_code"}, "code": {"made-up"},
		"redirect_uri": console.RedirectURIs}); got.Status != http.StatusBadRequest || got.Error != "invalid_grant" {
		t.Errorf("a made-up code got %+v", got)
	}
	if _, err := http.Get(p.Issuer); err == nil {
		t.Error("the provider's CA is known to everybody")
	}
}

// TestLifetime waits for the end of a token's life, which is as asked for.
func TestLifetime(t *testing.T) {
	p := Start(t, Options{Clients: []Client{{ID: "robot", Secret: "right"}}, Lifetime: time.Second})
	token := p.ClientToken(t, "robot", "https://api.example")
	got, err := verify(p.Keys(t), token)
	if err != nil || got.Expiry.Time().Sub(got.IssuedAt.Time()) != time.Second {
		t.Fatalf("claims %+v, error %v; want a second between iat and exp", got, err)
	}
	stage.Eventually(t, time.Minute, func() error {
		if err := got.ValidateWithLeeway(jwt.Expected{Time: time.Now()}, 0); !errors.Is(err, jwt.ErrExpired) {
			return errors.New("not expired")
		}
		return nil
	})
}

func TestRestart(t *testing.T) {
	p := Start(t, Options{Clients: []Client{{ID: "robot", Secret: "right"}}})
	before := p.ClientToken(t, "robot", "https://api.example")
	p.Restart(t)
	if _, err := verify(p.Keys(t), before); err == nil {
		t.Error("a token of the old keys verifies against the new ones")
	}
	if _, err := verify(p.Keys(t), p.ClientToken(t, "robot", "https://api.example")); err != nil {
		t.Errorf("a token of the new keys: %v", err)
	}
}
