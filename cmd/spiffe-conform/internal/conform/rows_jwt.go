package conform

import (
	"context"
	"crypto"
	"fmt"
	"time"

	"github.com/authsec-ai/icp/cmd/spiffe-conform/internal/strict"
)

// jwtRows judge the tokens that this process was given (JWT-SVID).
func jwtRows() []Row {
	token := func(id string, level Level, wants string, judge func(*probe, jwtSVID) error) Row {
		return Row{ID: id, Level: level, Wants: wants, check: eachToken(judge)}
	}
	return []Row{
		token("JWT-01", Must, "a token is a compact JWS", func(*probe, jwtSVID) error { return nil }),
		token("JWT-02", Must, "the header has alg, kid and typ alone", func(_ *probe, t jwtSVID) error { return t.OnlyKnownHeaders() }),
		token("JWT-04", Must, "alg is RS, ES or PS with 256, 384 or 512", func(_ *probe, t jwtSVID) error { return second(t.Algorithm()) }),
		token("JWT-06", May, "kid names the key of the trust domain's JWT bundle that signed", signedByBundle),
		token("JWT-07", Must, "typ is absent, JWT or JOSE", func(_ *probe, t jwtSVID) error { return t.Type() }),
		token("JWT-08", Must, "sub is the SPIFFE ID that the token was issued to", subjectIsID),
		token("JWT-09", Must, "aud has a value", func(_ *probe, t jwtSVID) error { return second(t.Audience()) }),
		token("JWT-12", Must, "exp is there, and ahead", expiresAhead),
	}
}

// jwtSVID is a token that has been read.
type jwtSVID struct {
	*strict.Token
	id string // that came with it
}

func second[T any](_ T, err error) error { return err }

func eachToken(judge func(*probe, jwtSVID) error) check {
	return func(_ context.Context, p *probe) (string, error) {
		tokens, err := p.tokens()
		if err != nil {
			return "", err
		}
		for _, each := range tokens {
			token, err := strict.DecodeToken(each.GetSvid())
			if err == nil {
				err = judge(p, jwtSVID{token, each.GetSpiffeId()})
			}
			if err != nil {
				return "", fmt.Errorf("the token of %s: %w", each.GetSpiffeId(), err)
			}
		}
		return fmt.Sprintf("%d tokens", len(tokens)), nil
	}
}

func signedByBundle(p *probe, t jwtSVID) error {
	kid, err := t.KeyID()
	if err != nil {
		return err
	}
	trustDomain, _, err := strict.ID(t.id)
	if err != nil {
		return err
	}
	key, err := p.jwtKey("spiffe://"+trustDomain, kid)
	if err != nil {
		return err
	}
	return t.Verify(key)
}

// jwtKey finds a key of a trust domain's JWT bundle.
func (p *probe) jwtKey(trustDomain, kid string) (crypto.PublicKey, error) {
	sets, err := p.sets()
	if err != nil {
		return nil, err
	}
	keys, err := strict.Keys(sets[trustDomain])
	if err != nil {
		return nil, fmt.Errorf("the JWT bundle of %s: %w", trustDomain, err)
	}
	for _, jwk := range keys {
		if jwk["kid"] == kid {
			return strict.PublicKey(jwk)
		}
	}
	return nil, fmt.Errorf("no key of the JWT bundle of %s has the kid %q", trustDomain, kid)
}

func subjectIsID(_ *probe, t jwtSVID) error {
	sub, err := t.Subject()
	if err == nil && sub != t.id {
		err = fmt.Errorf("sub is %s", sub)
	}
	return err
}

func expiresAhead(_ *probe, t jwtSVID) error {
	expiry, err := t.Expiry()
	if err == nil && !expiry.After(time.Now()) {
		err = fmt.Errorf("it expired at %s", expiry.UTC().Format(time.RFC3339))
	}
	return err
}
