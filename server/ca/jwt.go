package ca

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/authsec-ai/icp/identity"
)

const (
	maxAudiences     = 16
	maxAudienceBytes = 1024
)

// claims of a JWT-SVID (JWT-SVID section 3), in the order they are written.
type claims struct {
	Audience []string `json:"aud"`
	Expiry   int64    `json:"exp"` // seconds since the epoch
	IssuedAt int64    `json:"iat"`
	ID       string   `json:"jti"`
	Subject  string   `json:"sub"`
}

// readAudience takes the audience as asked for, without repetitions.
func (a *ask) readAudience(audience []string) error {
	if len(audience) > maxAudiences {
		return identity.Errorf(identity.Invalid, "token is for %d audiences; the limit is %d", len(audience), maxAudiences)
	}
	for _, aud := range audience {
		if aud == "" || len(aud) > maxAudienceBytes {
			return identity.Errorf(identity.Invalid, "an audience must have 1 to %d bytes; %q has %d", maxAudienceBytes, identity.Clip(aud), len(aud))
		}
		if !slices.Contains(a.audience, aud) {
			a.audience = append(a.audience, aud)
		}
	}
	if len(a.audience) == 0 {
		return identity.Errorf(identity.Invalid, "a token needs at least one audience")
	}
	return nil
}

// retryKey is the request id under which a retry finds its first attempt. A
// token has no key to tell requests apart, so its audience becomes part of it.
func (a *ask) retryKey() string {
	if a.requestID == "" || len(a.audience) == 0 {
		return a.requestID
	}
	h := sha256.New()
	for _, aud := range a.audience {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(aud))))
		h.Write([]byte(aud))
	}
	return a.requestID + " " + hex.EncodeToString(h.Sum(nil)[:16])
}

// signToken makes the JWT-SVID of a recorded intent: ES256, with kid and typ
// and no other header.
func (s *authority) signToken(a *ask) (string, error) {
	if a.intent.SPIFFEID.TrustDomain().Name() != s.row.TrustDomain || a.intent.SPIFFEID.Path() == "" {
		return "", fmt.Errorf("JWT key of trust domain %q does not sign for %s", s.row.TrustDomain, a.intent.SPIFFEID)
	}
	if a.intent.ExpiresAt.After(s.row.ExpiresAt) {
		return "", fmt.Errorf("token would end at %s, after its key", a.intent.ExpiresAt)
	}
	payload, err := json.Marshal(claims{
		Audience: a.audience,
		Expiry:   a.intent.ExpiresAt.Unix(),
		IssuedAt: a.intent.NotBefore.Unix(),
		ID:       a.intent.Serial,
		Subject:  a.intent.SPIFFEID.String(),
	})
	if err != nil {
		return "", fmt.Errorf("encode the claims: %w", err)
	}
	header := `{"alg":"ES256","kid":"` + s.row.ID + `","typ":"JWT"}` // the id is hex
	text := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString(payload)
	signature, err := s.signES256([]byte(text))
	if err != nil {
		return "", fmt.Errorf("sign a token: %w", err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}

// signES256 gives the signature of text as RFC 7518 section 3.4 writes it: r
// and s, 32 bytes each.
func (s *authority) signES256(text []byte) ([]byte, error) {
	digest := sha256.Sum256(text)
	der, err := signVerified(s.key, digest)
	if err != nil {
		return nil, err
	}
	var r, t big.Int
	var pair cryptobyte.String
	in := cryptobyte.String(der)
	if !in.ReadASN1(&pair, asn1.SEQUENCE) || !pair.ReadASN1Integer(&r) || !pair.ReadASN1Integer(&t) {
		return nil, errors.New("the signature is not in DER")
	}
	out := make([]byte, 64)
	r.FillBytes(out[:32])
	t.FillBytes(out[32:])
	return out, nil
}
