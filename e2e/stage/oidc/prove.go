package oidc

import (
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/e2e/stage/node"
)

// Prove shows that tokens verify against the keys that the provider publishes,
// changed and strange ones don't, and that a client's secret counts.
func Prove(t stage.T) stage.Proof {
	t.Helper()
	const audience = "https://api.example/icp"
	o := Options{
		Clients: []Client{{ID: "robot", Secret: "right"}, {ID: "console", RedirectURIs: []string{"http://127.0.0.1/callback"}}},
		Users:   []User{{Name: "ada", Claims: map[string]any{"groups": []string{"admins"}}}},
	}
	from := time.Now()
	p := Start(t, o)
	ready := time.Since(from)
	robot, ada := p.ClientToken(t, "robot", audience), p.UserToken(t, "console", "ada")
	accepted(t, p, robot, audience, "robot")
	accepted(t, p, ada, "console", "ada")
	changed, stranger := refused(t, p, tampered(t, robot)), refused(t, p, Start(t, o).ClientToken(t, "robot", audience))
	form := func() url.Values { return url.Values{"grant_type": {"client_credentials"}} }
	wrong, right := p.Token(t, "robot", "wrong", form()), p.Token(t, "robot", "right", form())
	if wrong.Status != http.StatusUnauthorized || wrong.Error != "invalid_client" || right.Status != http.StatusOK {
		t.Fatalf("a wrong secret got %d %q, the right one %d; want 401 invalid_client and 200", wrong.Status, wrong.Error, right.Status)
	}
	return stage.Proof{Version: node.Version(t, "oidc-provider"), Ready: ready, Fact: fmt.Sprintf(
		"JWTs of robot and ada verify; a flipped bit: %s; another provider's: %s; wrong secret: %d %s, right: %d",
		changed, stranger, wrong.Status, wrong.Error, right.Status)}
}

func accepted(t stage.T, p *Provider, token, audience, subject string) {
	t.Helper()
	claims, err := verify(p.Keys(t), token)
	if err == nil {
		err = claims.Validate(jwt.Expected{Issuer: p.Issuer, Subject: subject, AnyAudience: jwt.Audience{audience}, Time: time.Now()})
	}
	if err != nil {
		t.Fatalf("the token of %s for %s does not verify: %v: %s", subject, audience, err, token)
	}
}

// refused gives why no key of the provider is that of the token's signature.
func refused(t stage.T, p *Provider, token string) string {
	t.Helper()
	_, err := verify(p.Keys(t), token)
	if !errors.Is(err, jose.ErrCryptoFailure) {
		t.Fatalf("a false token was to fail for its signature: %v: %s", err, token)
	}
	return strings.ReplaceAll(err.Error(), "go-jose/go-jose: ", "")
}

// verify checks the signature with the key that the token names, or with every
// RSA key if there is no such key.
func verify(keys jose.JSONWebKeySet, token string) (jwt.Claims, error) {
	var claims jwt.Claims
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.RS256, jose.ES256})
	if err != nil {
		return claims, err
	}
	if named := keys.Key(parsed.Headers[0].KeyID); len(named) == 1 {
		return claims, parsed.Claims(named[0].Key, &claims)
	}
	err = errors.New("there is no key")
	for _, key := range keys.Keys {
		if _, ok := key.Key.(*rsa.PublicKey); !ok {
			continue
		}
		if err = parsed.Claims(key.Key, &claims); err == nil {
			return claims, nil
		}
	}
	return claims, fmt.Errorf("no key has the token's name: %w", err)
}

// tampered flips a bit in the middle of a token's payload.
func tampered(t stage.T, token string) string {
	t.Helper()
	parts := strings.Split(token, ".")
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatalf("read a token's payload: %v", err)
	}
	payload[len(payload)/2] ^= 1
	return strings.Join([]string{parts[0], base64.RawURLEncoding.EncodeToString(payload), parts[2]}, ".")
}
