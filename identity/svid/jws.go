package svid

import (
	"encoding/base64"
	"errors"
	"strings"
)

// jws is a compact JWS, taken apart and decoded once. What is verified is
// signed; what is used is claims, decoded from the same bytes.
type jws struct {
	alg       algorithm
	kid       string
	claims    map[string]any
	signed    string // header and payload as they came
	signature []byte
}

// readJWS takes a compact JWS (RFC 7515 section 3.1) apart without verifying
// it. It looks at the algorithm before it reads the payload.
func readJWS(token string) (*jws, error) {
	if len(token) > MaxTokenBytes {
		return nil, refuse(TooLarge, "the token is %d bytes long; the limit is %d", len(token), MaxTokenBytes)
	}
	if strings.Count(token, ".") != 2 {
		return nil, refuse(NotCompact, "the token does not have three parts; only a compact JWS is accepted")
	}
	end := strings.LastIndexByte(token, '.')
	t := &jws{signed: token[:end]}
	head, payload, _ := strings.Cut(t.signed, ".")
	if err := t.readHeader(head); err != nil {
		return nil, err
	}
	var err error
	if t.signature, err = decodeBase64(token[end+1:]); err != nil {
		return nil, refuse(BadBase64, "the token's signature is not base64url: %s", err)
	}
	return t, t.readClaims(payload)
}

func (t *jws) readHeader(text string) error {
	b, err := decodeBase64(text)
	if err != nil {
		return refuse(BadBase64, "the token's header is not base64url: %s", err)
	}
	header, err := readObject(b)
	switch {
	case errors.Is(err, errDuplicate):
		return refuse(DuplicateHeader, "the token's header has a parameter twice")
	case err != nil:
		return refuse(BadHeader, "the token's header can't be read: %s", err)
	}
	for name := range header {
		if name != "alg" && name != "kid" && name != "typ" {
			return refuse(HeaderParameter, "the token's header has %.64q; only alg, kid and typ are allowed", name)
		}
	}
	return t.takeHeader(header)
}

func (t *jws) takeHeader(header map[string]any) error {
	name, _ := header["alg"].(string)
	alg, ok := findAlgorithm(name)
	if !ok {
		return refuse(BadAlgorithm, "the token's alg %.32q is not accepted", name)
	}
	if typ, present := header["typ"]; present && typ != "JWT" && typ != "JOSE" {
		return refuse(BadType, "the token's typ is neither JWT nor JOSE")
	}
	kid, ok := header["kid"].(string)
	if !ok || kid == "" {
		return refuse(BadKeyID, "the token has no kid, or it is not text")
	}
	t.alg, t.kid = alg, kid
	return nil
}

func (t *jws) readClaims(text string) error {
	b, err := decodeBase64(text)
	if err != nil {
		return refuse(BadBase64, "the token's payload is not base64url: %s", err)
	}
	t.claims, err = readObject(b)
	switch {
	case errors.Is(err, errDuplicate):
		return refuse(DuplicateClaim, "the token has a claim twice")
	case err != nil:
		return refuse(BadClaims, "the token's payload can't be read: %s", err)
	}
	return nil
}

// decodeBase64 reads canonical base64url without padding (RFC 7515 section 2).
// The library's decoder passes over line breaks, so they are refused first.
func decodeBase64(text string) ([]byte, error) {
	if strings.ContainsAny(text, "\r\n") {
		return nil, errors.New("it has a line break")
	}
	return base64.RawURLEncoding.Strict().DecodeString(text)
}
