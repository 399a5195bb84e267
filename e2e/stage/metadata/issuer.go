package metadata

import (
	"bytes"
	"crypto/rsa"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/e2e/stage/pki"
)

// Issuer signs tokens, and publishes its keys at a loopback port as OpenID
// Connect Discovery has it, by HTTPS with an authority of its own.
type Issuer struct {
	URL       string // https://127.0.0.1:PORT
	JWKSURI   string
	Authority *pki.Authority
	Key       *rsa.PrivateKey // with it a test signs whatever it likes

	stranger *rsa.PrivateKey
}

const keyID = "stage-1"

func newIssuer(t stage.T) *Issuer {
	t.Helper()
	authority, l := pki.New(t, "stage issuer CA"), loopback(t)
	i := &Issuer{URL: "https://" + l.Addr().String(), Authority: authority, Key: pki.RSA(t), stranger: pki.RSA(t)}
	i.JWKSURI = i.URL + "/keys"
	public := jose.JSONWebKey{Key: i.Key.Public(), KeyID: keyID, Algorithm: "RS256", Use: "sig"}
	mux := http.NewServeMux()
	mux.Handle("GET /.well-known/openid-configuration", publish(map[string]any{
		"issuer": i.URL, "jwks_uri": i.JWKSURI, "response_types_supported": []string{"id_token"},
		"subject_types_supported": []string{"public"}, "id_token_signing_alg_values_supported": []string{"RS256"},
	}))
	mux.Handle("GET /keys", publish(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{public}}))
	serve(t, tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{authority.Server(t, "127.0.0.1")}}), mux)
	return i
}

// HTTP gives a client that trusts the issuer.
func (i *Issuer) HTTP() *http.Client {
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: i.Authority.Pool()}, DisableKeepAlives: true,
	}}
}

// publish answers with a value's JSON.
func publish(value any) http.Handler {
	return answering("application/json", func(*http.Request) ([]byte, error) { return json.Marshal(value) })
}

// token signs claims with RS256; a stranger's token names the issuer's key.
func (i *Issuer) token(claims any, f Forgery) ([]byte, error) {
	key := i.Key
	if f.Stranger {
		key = i.stranger
	}
	signer, err := jose.NewSigner(jose.SigningKey{
		Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: key, KeyID: keyID},
	}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return nil, fmt.Errorf("make a JWT signer: %w", err)
	}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		return nil, fmt.Errorf("sign a token: %w", err)
	}
	return tamperToken([]byte(token), f)
}

// tamperToken changes a token's payload and keeps its signature.
func tamperToken(token []byte, f Forgery) ([]byte, error) {
	parts := strings.Split(string(token), ".")
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil, fmt.Errorf("read a token's payload: %w", err)
	}
	changed, err := f.tamper(payload)
	if err != nil || bytes.Equal(changed, payload) {
		return token, err
	}
	parts[1] = base64.RawURLEncoding.EncodeToString(changed)
	return []byte(strings.Join(parts, ".")), nil
}
