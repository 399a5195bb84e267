package svid

import (
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// VerifyJWT checks a compact JWS whose audience must hold at least one of
// audience, exact bytes. An empty audience accepts nothing. Every error is an
// *Error; on any doubt the token is refused.
func VerifyJWT(token string, audience []string, bundles jwtbundle.Source, opts JWTOptions) (*JWT, error) {
	// 1. Options: a validator that does not know its own name accepts nothing.
	if err := opts.check(); err != nil {
		return nil, err
	}
	if len(audience) == 0 || slices.Contains(audience, "") {
		return nil, refuse(NoAudience, "the validator has no audience of its own, or an empty one")
	}
	// 2. Size, form, header, payload.
	t, err := readJWS(token)
	if err != nil {
		return nil, err
	}
	// 3. The subject, which chooses the bundle, and no other.
	id, err := subject(t.claims)
	if err != nil {
		return nil, err
	}
	// 4. The signature.
	if err := verifySignature(t, id.TrustDomain(), bundles); err != nil {
		return nil, err
	}
	// 5. What the signer says.
	svid, err := readSVID(t, id, opts)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(audience, func(own string) bool { return slices.Contains(svid.Audience, own) }) {
		return nil, refuse(WrongAudience, "the token is for %.200q", svid.Audience)
	}
	// 6. Revocation.
	if opts.Revoked != nil && svid.JTI != "" && opts.Revoked(id, svid.JTI) {
		return nil, refuse(RevokedSVID, "token %.64q of %s is revoked", svid.JTI, id)
	}
	return svid, nil
}

// subject gives the SPIFFE ID in sub, which must name a workload.
func subject(claims map[string]any) (spiffeid.ID, error) {
	sub, ok := claims["sub"].(string)
	if !ok {
		return spiffeid.ID{}, refuse(BadSubject, "the token has no sub, or it is not text")
	}
	id, err := parseID(sub)
	if err != nil {
		return spiffeid.ID{}, err
	}
	if id.Path() == "" {
		return spiffeid.ID{}, refuse(NoPath, "%s names a trust domain and not a workload", id)
	}
	return id, nil
}

func verifySignature(t *jws, td spiffeid.TrustDomain, bundles jwtbundle.Source) error {
	if bundles == nil {
		return refuse(BadOptions, "there is no bundle source")
	}
	bundle, err := bundles.GetJWTBundleForTrustDomain(td)
	if err != nil || bundle == nil || bundle.TrustDomain() != td {
		return refuse(UnknownDomain, "there is no JWT bundle for trust domain %q", td)
	}
	if bundle.Empty() {
		return refuse(NoAuthorities, "the JWT bundle of trust domain %q has no key", td)
	}
	key, ok := bundle.FindJWTAuthority(t.kid)
	if !ok {
		return refuse(UnknownKey, "the JWT bundle of trust domain %q has no key %.64q", td, t.kid)
	}
	if err := checkKey(key); err != nil {
		return refuse(WeakKey, "the key %.64q is not accepted: %s", t.kid, err)
	}
	switch err := t.alg.verify(key, t.signed, t.signature); {
	case errors.Is(err, errKeyKind):
		return refuse(AlgorithmKey, "key %.64q: %s", t.kid, err)
	case err != nil:
		return refuse(BadSignature, "key %.64q: %s", t.kid, err)
	}
	return nil
}

// readSVID checks the claims of a token whose signature is verified.
func readSVID(t *jws, id spiffeid.ID, opts JWTOptions) (*JWT, error) {
	svid := &JWT{ID: id, KeyID: t.kid, Claims: t.claims}
	var err error
	if svid.Audience, err = readAudience(t.claims["aud"]); err != nil {
		return nil, err
	}
	if err := svid.readTimes(opts); err != nil {
		return nil, err
	}
	if jti, present := t.claims["jti"]; present {
		if svid.JTI, present = jti.(string); !present {
			return nil, refuse(BadJTI, "the token's jti is not text")
		}
	}
	return svid, nil
}

// readAudience reads aud, one text or a list of them (RFC 7519 section 4.1.3).
func readAudience(aud any) ([]string, error) {
	list, ok := aud.([]any)
	if !ok {
		list = []any{aud}
	}
	values := make([]string, 0, len(list))
	for _, item := range list {
		value, ok := item.(string)
		if !ok || value == "" {
			return nil, refuse(BadAudience, "the token's aud is missing, empty, or not text")
		}
		values = append(values, value)
	}
	if len(values) == 0 {
		return nil, refuse(BadAudience, "the token's aud is empty")
	}
	return values, nil
}

func (s *JWT) readTimes(opts JWTOptions) error {
	if s.Claims["exp"] == nil {
		return refuse(NoExpiry, "the token has no exp")
	}
	exp, ok := numericDate(s.Claims["exp"])
	if !ok {
		return refuse(BadExpiry, "the token's exp is not a NumericDate")
	}
	s.Expiry = exp
	if !opts.Now.Before(exp.Add(opts.Leeway)) {
		return refuse(Expired, "the token expired at %s", exp.Format(time.RFC3339))
	}
	if err := s.checkNotBefore(opts); err != nil {
		return err
	}
	if err := s.readIssuedAt(opts); err != nil {
		return err
	}
	return s.checkLifetime(opts)
}

func (s *JWT) checkNotBefore(opts JWTOptions) error {
	value, present := s.Claims["nbf"]
	if !present {
		return nil
	}
	nbf, ok := numericDate(value)
	switch {
	case !ok:
		return refuse(BadNotBefore, "the token's nbf is not a NumericDate")
	case nbf.After(opts.Now.Add(opts.Leeway)):
		return refuse(NotYetValid, "the token is valid from %s", nbf.Format(time.RFC3339))
	}
	return nil
}

func (s *JWT) readIssuedAt(opts JWTOptions) error {
	value, present := s.Claims["iat"]
	if !present {
		return nil
	}
	iat, ok := numericDate(value)
	if !ok {
		return refuse(BadIssuedAt, "the token's iat is not a NumericDate")
	}
	s.IssuedAt = iat
	if iat.After(opts.Now.Add(opts.Leeway)) {
		s.Warnings = append(s.Warnings, "iat is in the future")
	}
	return nil
}

// checkLifetime measures from iat, or from now if iat is absent or later: an
// iat in the future must not make a long life look short.
func (s *JWT) checkLifetime(opts JWTOptions) error {
	if opts.MaxAge == 0 {
		return nil
	}
	from := s.IssuedAt
	if from.IsZero() || from.After(opts.Now) {
		from = opts.Now
	}
	if life := s.Expiry.Sub(from); life > opts.MaxAge {
		return refuse(LifetimeTooLong, "the token lives %s; at most %s is accepted", life, opts.MaxAge)
	}
	return nil
}

// numericDate reads a NumericDate (RFC 7519 section 2): seconds since 1970, not
// negative, before the year 10000, a fraction allowed. The exponent form is
// refused, as no issuer writes a date so.
func numericDate(value any) (time.Time, bool) {
	number, ok := value.(json.Number)
	if !ok {
		return time.Time{}, false
	}
	whole, fraction, _ := strings.Cut(string(number), ".")
	seconds, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || seconds < 0 || seconds > lastSecond || strings.ContainsAny(fraction, "eE") || whole[0] == '-' {
		return time.Time{}, false
	}
	var nanos float64
	if fraction != "" {
		part, err := strconv.ParseFloat("0."+fraction, 64)
		if err != nil {
			return time.Time{}, false
		}
		nanos = math.Floor(part * 1e9)
	}
	return time.Unix(seconds, int64(nanos)), true
}

// lastSecond is 9999-12-31T23:59:59Z.
const lastSecond = 253402300799
