package cache

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/identity/svid"
	"github.com/authsec-ai/icp/internal/wire"
)

// maxAudiences bounds the tokens kept for one entry.
const maxAudiences = 64

// jwt is one token, or one that is being signed. Guarded by Cache.mu.
type jwt struct {
	token     string
	renewAt   time.Time // half of the lifetime
	expiresAt time.Time
	signing   chan struct{} // closed when the attempt under way has ended; nil if none is
}

// usable reports whether there is a token that has not expired.
func (j *jwt) usable(now time.Time) bool { return j.token != "" && now.Before(j.expiresAt) }

// FetchJWT gives one JWT-SVID per identity of the process, oldest entry first,
// or that of one identity unless id is zero. Tokens are kept by entry and
// audience, whose order and repetitions do not count, and signed anew past half
// of their life; while the server is away they serve to their end.
//
// Errors are *identity.Error: Denied if there is no such identity, Unavailable
// before the first sync and while nothing can be signed.
func (c *Cache) FetchJWT(ctx context.Context, selectors identity.Selectors, evidence string,
	id spiffeid.ID, audience []string) ([]JWTSVID, error) {
	audience = slices.Compact(slices.Sorted(slices.Values(audience)))
	if len(audience) == 0 {
		return nil, identity.Errorf(identity.Invalid, "audience is required: name who the token is for")
	}
	want := jwtWant{asker{selectors, evidence}, id, audience, strings.Join(audience, "\x00")}
	mine, others, err := c.claim(want)
	if err != nil {
		return nil, err
	}
	var failure error
	if len(mine) > 0 {
		failure = c.signJWTs(ctx, want, mine)
	}
	for _, done := range others {
		select {
		case <-done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return c.collectJWTs(want, failure)
}

// jwtWant is what one call of FetchJWT asks for.
type jwtWant struct {
	asker
	id       spiffeid.ID // zero for all
	audience []string    // sorted, without repetitions
	key      string
}

// claim takes it upon the caller to have the missing tokens signed; others are
// those that another call is having signed.
func (c *Cache) claim(want jwtWant) (mine []*entry, others []chan struct{}, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	matched, err := c.matchJWT(want)
	if err != nil {
		return nil, nil, err
	}
	now := c.clock.Now()
	for _, e := range matched {
		j := e.jwtFor(want.key, now)
		switch {
		case j.usable(now) && now.Before(j.renewAt):
		case j.signing != nil:
			if !j.usable(now) {
				others = append(others, j.signing)
			}
		default:
			j.signing = make(chan struct{})
			mine = append(mine, e)
		}
	}
	return mine, others, nil
}

// matchJWT gives the entries that want may have, oldest first, one per ID if it
// names one.
func (c *Cache) matchJWT(want jwtWant) ([]*entry, error) {
	if !c.synced {
		return nil, notSynced()
	}
	matched := c.index.match(want.selectors)
	if !want.id.IsZero() {
		matched = slices.DeleteFunc(matched, func(e *entry) bool { return e.SPIFFEID != want.id })
		matched = matched[:min(1, len(matched))]
	}
	if len(matched) == 0 {
		return nil, noIdentity()
	}
	return matched, nil
}

// jwtFor gives the token for an audience, empty if there is none yet.
func (e *entry) jwtFor(key string, now time.Time) *jwt {
	if j, ok := e.jwts[key]; ok {
		return j
	}
	if e.jwts == nil {
		e.jwts = map[string]*jwt{}
	}
	if len(e.jwts) >= maxAudiences {
		e.dropJWTs(now)
	}
	j := &jwt{}
	e.jwts[key] = j
	return j
}

// dropJWTs makes room: the expired tokens go, and if that is not enough, the one
// that ends first.
func (e *entry) dropJWTs(now time.Time) {
	first := ""
	for key, j := range e.jwts {
		switch {
		case j.signing != nil:
		case !j.usable(now):
			delete(e.jwts, key)
		case first == "" || j.expiresAt.Before(e.jwts[first].expiresAt):
			first = key
		}
	}
	if len(e.jwts) >= maxAudiences && first != "" {
		delete(e.jwts, first)
	}
}

// signJWTs has the tokens of entries signed, and gives why it could not. Other
// calls may wait for it, so it does not end with its own.
func (c *Cache) signJWTs(ctx context.Context, want jwtWant, entries []*entry) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), signTimeout)
	defer cancel()
	req := wire.SignJWTRequest{Items: make([]wire.SignJWTItem, len(entries))}
	for i, e := range entries {
		req.Items[i] = wire.SignJWTItem{
			RequestID: rand.Text(), EntryID: e.ID, EntryRevision: e.Revision,
			Selectors: want.selectors, Evidence: want.evidence, Audience: want.audience,
		}
	}
	resp, err := c.signer.SignJWT(ctx, req)
	if err == nil && len(resp.Results) != len(entries) {
		err = identity.Errorf(identity.Unavailable, "server answered %d of %d items", len(resp.Results), len(entries))
	}
	var failure error
	for i, e := range entries {
		var token *svid.JWT
		itemErr := err
		if err == nil {
			token, itemErr = c.acceptJWT(e, want.audience, resp.Results[i])
		}
		c.metrics.count(ctx, identity.JWT, itemErr)
		if itemErr != nil {
			failure = itemErr
			c.log.Warn("JWT-SVID not issued", "entry", e.ID, "spiffe_id", e.SPIFFEID.String(), "error", itemErr)
			c.settleJWT(e, want.key, jwt{})
			continue
		}
		now := c.clock.Now()
		c.settleJWT(e, want.key, jwt{
			token: resp.Results[i].Token, expiresAt: token.Expiry, renewAt: now.Add(token.Expiry.Sub(now) / 2),
		})
	}
	return failure
}

// acceptJWT checks what came back: it must be for the entry's ID and exactly
// this audience, and verify against the bundle of its trust domain.
func (c *Cache) acceptJWT(e *entry, audience []string, result wire.SignJWTResult) (*svid.JWT, error) {
	if result.Error != nil {
		return nil, result.Error.Err()
	}
	bundle, err := c.bundle(e.SPIFFEID.TrustDomain())
	if err != nil {
		return nil, err
	}
	now := c.clock.Now()
	if now.Before(result.IssuedAt) {
		now = result.IssuedAt // a clock that is behind serves all the same; the sync reports it
	}
	token, err := svid.VerifyJWT(result.Token, audience, bundle, svid.JWTOptions{Now: now})
	if err != nil {
		return nil, fmt.Errorf("server's answer for entry %s: %w", e.ID, err)
	}
	if token.ID != e.SPIFFEID || !slices.Equal(slices.Sorted(slices.Values(token.Audience)), audience) {
		return nil, fmt.Errorf("server's answer for entry %s is for %s and another audience or identity", e.ID, token.ID)
	}
	return token, nil
}

// settleJWT ends an attempt; an empty token changes nothing else.
func (c *Cache) settleJWT(e *entry, key string, got jwt) {
	c.mu.Lock()
	defer c.mu.Unlock()
	j := e.jwts[key]
	close(j.signing)
	j.signing = nil
	if got.token != "" {
		*j = got
	}
}

// collectJWTs gives the tokens that there are. Entitlement is looked at again:
// it may have gone while the token was signed.
func (c *Cache) collectJWTs(want jwtWant, failure error) ([]JWTSVID, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	matched, err := c.matchJWT(want)
	if err != nil {
		return nil, err
	}
	now := c.clock.Now()
	var list []JWTSVID
	for _, e := range matched {
		if j, ok := e.jwts[want.key]; ok && j.usable(now) {
			list = append(list, JWTSVID{ID: e.SPIFFEID, Token: j.token, Hint: e.Hint, ExpiresAt: j.expiresAt})
		}
	}
	if len(list) == 0 {
		return nil, &identity.Error{Code: identity.Unavailable, Err: failure,
			Message: "the server can't sign this token now; try again shortly"}
	}
	return list, nil
}
