package builtin

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/authsec-ai/icp/cmd/spiffe-conform/internal/strict"
)

// The two trust domains.
const (
	home    = "spiffe://home.example"
	foreign = "spiffe://foreign.example"
)

const lifetime = time.Hour

// Template edits a certificate before it is signed; nil leaves it.
type Template func(*x509.Certificate)

// identity is one that the process has.
type identity struct {
	id, hint   string
	chain, key []byte // DER
}

// authority signs for home. Its anchor signs an intermediate, which signs leaves.
type authority struct {
	behaviour     Behaviour
	anchor        []byte // DER
	foreignAnchor []byte
	intermediate  *x509.Certificate
	signer        *ecdsa.PrivateKey // of the intermediate
	jwt           *ecdsa.PrivateKey
	foreignJWT    *ecdsa.PrivateKey
}

func newAuthority(b Behaviour) (*authority, error) {
	keys := make([]*ecdsa.PrivateKey, 5)
	for i := range keys {
		var err error
		if keys[i], err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return nil, fmt.Errorf("make a key: %w", err)
		}
	}
	a := &authority{behaviour: b, signer: keys[1], jwt: keys[2], foreignJWT: keys[3]}
	if b.SharedKey {
		a.jwt = keys[0]
	}
	anchor, err := sign(signing(home, b.Anchor), nil, keys[0], keys[0])
	if err != nil {
		return nil, err
	}
	other, err := sign(signing(foreign, nil), nil, keys[4], keys[4])
	if err != nil {
		return nil, err
	}
	if a.intermediate, err = sign(signing(home, b.Intermediate), anchor, keys[1], keys[0]); err != nil {
		return nil, err
	}
	a.anchor, a.foreignAnchor = anchor.Raw, other.Raw
	return a, nil
}

func base(id string) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)) // crypto/rand does not fail
	name, _ := url.Parse(id)                                                 // only IDs of this package
	return &x509.Certificate{
		SerialNumber: serial, URIs: []*url.URL{name},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(lifetime), BasicConstraintsValid: true,
	}
}

func signing(id string, edit Template) *x509.Certificate {
	template := base(id)
	template.Subject = pkix.Name{CommonName: "an authority", SerialNumber: template.SerialNumber.String()}
	template.IsCA, template.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	return edited(template, edit)
}

func edited(template *x509.Certificate, edit Template) *x509.Certificate {
	if edit != nil {
		edit(template)
	}
	return template
}

// sign makes a certificate; without a parent it signs itself.
func sign(template, parent *x509.Certificate, key, by *ecdsa.PrivateKey) (*x509.Certificate, error) {
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	if err != nil {
		return nil, fmt.Errorf("sign a certificate: %w", err)
	}
	return x509.ParseCertificate(der)
}

// identities issues both identities anew.
func (a *authority) identities() ([]identity, error) {
	list := []identity{{id: home + "/first", hint: "internal"}, {id: home + "/second", hint: "external"}}
	for i := range list {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("make a key: %w", err)
		}
		template := base(list[i].id)
		template.KeyUsage = x509.KeyUsageDigitalSignature
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
		leaf, err := sign(edited(template, a.behaviour.Leaf), a.intermediate, key, a.signer)
		if err != nil {
			return nil, err
		}
		list[i].chain = append(leaf.Raw, a.intermediate.Raw...)
		if list[i].key, err = x509.MarshalPKCS8PrivateKey(key); err != nil {
			return nil, fmt.Errorf("encode a key: %w", err)
		}
	}
	return list, nil
}

// kid is that of the one JWT key.
const kid = "the-jwt-key"

// token signs a JWT-SVID.
func (a *authority) token(id string, audience []string) (string, error) {
	header := map[string]any{"alg": "ES256", "kid": kid, "typ": "JWT"}
	claims := map[string]any{"sub": id, "aud": audience, "iat": time.Now().Unix(), "exp": time.Now().Add(lifetime).Unix()}
	if a.behaviour.Token != nil {
		a.behaviour.Token(header, claims)
	}
	signed := encode(header) + "." + encode(claims)
	digest := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, a.jwt, digest[:])
	if err != nil {
		return "", fmt.Errorf("sign a token: %w", err)
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	token := signed + "." + base64.RawURLEncoding.EncodeToString(signature)
	if a.behaviour.Compact != nil {
		token = a.behaviour.Compact(token)
	}
	return token, nil
}

// encode gives JSON in base64url; all that comes here can be JSON.
func encode(value any) string {
	raw, _ := json.Marshal(value)
	return base64.RawURLEncoding.EncodeToString(raw)
}

// verify checks a token in all but its audience.
func (a *authority) verify(token *strict.Token) error {
	sub, err := token.Subject()
	if err != nil {
		return err
	}
	trustDomain, _, err := strict.ID(sub)
	if err != nil {
		return err
	}
	named, err := token.KeyID()
	if err != nil {
		return err
	}
	if "spiffe://"+trustDomain != home || named != kid {
		return errors.New("no bundle has the token's key")
	}
	expiry, err := token.Expiry()
	if err == nil && !expiry.After(time.Now()) {
		err = errors.New("the token has expired")
	}
	return errors.Join(err, token.OnlyKnownHeaders(), token.Type(), token.Verify(a.jwt.Public()))
}

// keySets gives the JWT bundles of both trust domains.
func (a *authority) keySets() (own, other []byte, err error) {
	jwk, err := publicJWK(&a.jwt.PublicKey, kid)
	if err != nil {
		return nil, nil, err
	}
	otherJWK, err := publicJWK(&a.foreignJWT.PublicKey, "the-foreign-key")
	if err != nil {
		return nil, nil, err
	}
	if a.behaviour.JWK != nil {
		a.behaviour.JWK(jwk)
	}
	set := map[string]any{"keys": []any{jwk}}
	if a.behaviour.JWKS != nil {
		a.behaviour.JWKS(set)
	}
	if own, err = json.Marshal(set); err != nil {
		return nil, nil, fmt.Errorf("encode a JWK Set: %w", err)
	}
	other, err = json.Marshal(map[string]any{"keys": []any{otherJWK}})
	return own, other, err
}

func publicJWK(key *ecdsa.PublicKey, kid string) (map[string]any, error) {
	point, err := key.Bytes()
	if err != nil {
		return nil, fmt.Errorf("encode a key: %w", err)
	}
	return map[string]any{
		"kty": "EC", "crv": "P-256", "use": "jwt-svid", "kid": kid,
		"x": base64.RawURLEncoding.EncodeToString(point[1:33]), "y": base64.RawURLEncoding.EncodeToString(point[33:]),
	}, nil
}

// transport gives the server's credentials: the kernel's word on the caller, or
// TLS for the server that breaks the rule.
func (a *authority) transport(withTLS bool) credentials.TransportCredentials {
	if !withTLS {
		return kernel{}
	}
	return credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{a.intermediate.Raw}, PrivateKey: a.signer}}})
}
