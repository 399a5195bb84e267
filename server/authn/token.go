package authn

import (
	"context"
	"crypto/subtle"
	"strings"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/server/secret"
)

// howToAuthenticate ends every refusal of a token.
const howToAuthenticate = "send an API token as 'Authorization: Bearer icp-api-…'"

// Token establishes the caller from its Authorization headers, of which there
// must be one: of two, a proxy before us may have judged the other. Every text
// costs the same look-up by hash, so that time tells nothing about how close it
// was.
func (a *Authenticator) Token(ctx context.Context, headers []string) (Principal, error) {
	if len(headers) > 1 {
		return Principal{}, identity.Errorf(identity.Unauthenticated, "%d Authorization headers; send one", len(headers))
	}
	scheme, text, _ := strings.Cut(strings.Join(headers, ""), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return Principal{}, identity.Errorf(identity.Unauthenticated, "no API token; %s", howToAuthenticate)
	}
	hash := secret.Hash(text)
	t, err := a.store.APITokenByHash(ctx, hash)
	if identity.CodeOf(err) == identity.NotFound {
		return Principal{}, identity.Errorf(identity.Unauthenticated, "API token is not known; %s", howToAuthenticate)
	}
	if err != nil {
		return Principal{}, unavailable("look up the API token", err)
	}
	if subtle.ConstantTimeCompare(t.Hash, hash) != 1 {
		return Principal{}, identity.Errorf(identity.Unauthenticated, "API token is not known; %s", howToAuthenticate)
	}
	if !a.now().Before(t.ExpiresAt) {
		return Principal{}, identity.Errorf(identity.Unauthenticated, "API token has expired; ask an administrator for a new one")
	}
	return Principal{Kind: Token, Tenant: t.Tenant, Role: t.Role, Actor: "token:" + t.ID}, nil
}

// unavailable hides the cause from the caller and keeps it for the log.
func unavailable(doing string, err error) error {
	return &identity.Error{Code: identity.Unavailable, Err: err, Message: "could not " + doing + "; try again"}
}
