package corpus

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/authsec-ai/icp/identity/svid"
)

// TokenCase is one token and what must become of it.
type TokenCase struct {
	Row  string // "V-56"
	Name string // of the defect, "none"

	Token    string
	Audience []string // the validator's own; "api" unless the row is about it
	Bundles  jwtbundle.Source
	Options  svid.JWTOptions // Now is the world's

	// Exact says that the outcome hangs on Options or on an Audience that a
	// Workload API request can't carry: only a direct caller of the validator
	// can show it.
	Exact bool

	Want svid.Reason // "" means accepted
	ID   spiffeid.ID // that an accepted token proves
	Twin *TokenCase  // the same without the defect, accepted; nil if the case is accepted itself
}

// JWT gives every token case, row after row. Look at Err after it.
func (w *World) JWT() []TokenCase {
	return slices.Concat(
		w.algorithmCases(), w.keyChoiceCases(), w.headerCases(), w.jwsSignatureCases(),
		w.audienceCases(), w.dateCases(), w.subjectCases(), w.duplicateCases(), w.formCases(), w.sizeCases(),
	)
}

// Token is a JWT before it is signed, as raw text so that it can be wrong in
// any way.
type Token struct {
	Header string // JSON
	Claims string // JSON
	Key    crypto.Signer
	Alg    string // how to sign, whatever the header says

	signature func(signed string) []byte // nil means by Key and Alg
	after     func(token string) string  // changes the finished token
}

// Key ids of A's JWT bundle; B's bundle has a key of its own under KeyES256.
const (
	KeyES256 = "a-es256"
	KeyES384 = "a-es384"
	KeyES512 = "a-es512"
	KeyRSA   = "a-rsa"
	KeyWeak  = "a-weak" // RSA with 1024 bits
)

func (w *World) makeJWTKeys() {
	w.jwtKeys = map[string]crypto.Signer{
		KeyES256: w.newKey(elliptic.P256()), KeyES384: w.newKey(elliptic.P384()), KeyES512: w.newKey(elliptic.P521()),
		KeyRSA: w.rsaKey, KeyWeak: w.weakRSA, "b": w.newKey(elliptic.P256()),
	}
	a, b := jwtbundle.New(w.A.TrustDomain), jwtbundle.New(w.B.TrustDomain)
	for _, kid := range []string{KeyES256, KeyES384, KeyES512, KeyRSA, KeyWeak} {
		w.note(a.AddJWTAuthority(kid, w.jwtKeys[kid].Public()))
	}
	w.note(b.AddJWTAuthority(KeyES256, w.jwtKeys["b"].Public()))
	w.JWTBundles = jwtbundle.NewSet(a, b)
}

// Sign makes a good token with changes; nil makes it without.
func (w *World) Sign(change func(*Token)) string {
	t := Token{
		Header: header("ES256", KeyES256, `,"typ":"JWT"`),
		Claims: w.claims(w.A.ID("/web"), `["api"]`, ""),
		Key:    w.jwtKeys[KeyES256], Alg: "ES256",
	}
	if change != nil {
		change(&t)
	}
	return w.signToken(t)
}

func header(alg, kid, more string) string {
	return fmt.Sprintf(`{"alg":%q,"kid":%q%s}`, alg, kid, more)
}

// claims gives a payload with sub and aud, an exp in an hour, and more.
func (w *World) claims(sub, aud, more string) string {
	return fmt.Sprintf(`{"sub":%q,"aud":%s,"exp":%d%s}`, sub, aud, w.Now.Add(time.Hour).Unix(), more)
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func (w *World) signToken(t Token) string {
	signed := encode([]byte(t.Header)) + "." + encode([]byte(t.Claims))
	if t.signature == nil {
		t.signature = func(signed string) []byte { return w.jwsSignature(t.Key, t.Alg, signed) }
	}
	token := signed + "." + encode(t.signature(signed))
	if t.after != nil {
		token = t.after(token)
	}
	return token
}

// jwsSignature signs by an algorithm's name: RS, PS, ES, HS and a size.
func (w *World) jwsSignature(key crypto.Signer, alg, signed string) []byte {
	hash := map[string]crypto.Hash{"256": crypto.SHA256, "384": crypto.SHA384, "512": crypto.SHA512}[alg[2:]]
	h := hash.New()
	h.Write([]byte(signed))
	digest := h.Sum(nil)
	var opts crypto.SignerOpts = hash
	switch alg[:2] {
	case "ES":
		r, s, err := ecdsa.Sign(rand.Reader, key.(*ecdsa.PrivateKey), digest)
		w.note(err)
		return pair(key.(*ecdsa.PrivateKey), r, s)
	case "PS":
		opts = &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: hash}
	}
	signature, err := key.Sign(rand.Reader, digest, opts)
	w.note(err)
	return signature
}

// pair writes r‖s, each as long as the curve's order.
func pair(key *ecdsa.PrivateKey, r, s *big.Int) []byte {
	size := (key.Params().BitSize + 7) / 8
	return append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...)
}

func mac(secret []byte, signed string) []byte {
	m := hmac.New(crypto.SHA256.New, secret)
	m.Write([]byte(signed))
	return m.Sum(nil)
}

// token is a case around a token with changes.
func (w *World) token(change func(*Token)) TokenCase {
	return TokenCase{
		Token: w.Sign(change), Audience: []string{"api"}, Bundles: w.JWTBundles,
		Options: svid.JWTOptions{Now: w.Now}, ID: w.id(w.A.ID("/web")),
	}
}

func refusedToken(row, name string, want svid.Reason, bad, twin TokenCase) TokenCase {
	twin.Row, twin.Name = row, name
	bad.Row, bad.Name, bad.Want, bad.Twin = row, name, want, &twin
	bad.ID = spiffeid.ID{}
	return bad
}

func acceptedToken(row, name string, good TokenCase) TokenCase {
	good.Row, good.Name = row, name
	return good
}

// badToken is refused for a change; its twin is the token without it.
func (w *World) badToken(row, name string, want svid.Reason, change func(*Token)) TokenCase {
	return refusedToken(row, name, want, w.token(change), w.token(nil))
}

// Changes that many rows make.
func setHeader(text string) func(*Token) { return func(t *Token) { t.Header = text } }
func setClaims(text string) func(*Token) { return func(t *Token) { t.Claims = text } }
func finish(f func(string) string) func(*Token) {
	return func(t *Token) { t.after = f }
}

// signWith makes the token by a key and algorithm, and its header say so.
func (w *World) signWith(alg, kid string) func(*Token) {
	return func(t *Token) { t.Header, t.Alg, t.Key = header(alg, kid, ""), alg, w.jwtKeys[kid] }
}

func quoted(n int64) string { return strconv.FormatInt(n, 10) }
