package conform

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"strings"

	"github.com/authsec-ai/icp/cmd/spiffe-conform/internal/socket"
	"github.com/authsec-ai/icp/cmd/spiffe-conform/internal/strict"
)

// hostile is a token that no validator may accept.
type hostile struct {
	name, token, audience string
}

// material is what hostile tokens are made of.
type material struct {
	compact string // a good token
	token   *strict.Token
	public  crypto.PublicKey // whose private half signed it
	x509Key crypto.Signer    // of an X.509-SVID; nil if there is none
}

// hostileTokens makes all of them. Only what a thief or forger can make is
// here: nothing needs the signing key.
func hostileTokens(m material) ([]hostile, error) {
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a forger's key: %w", err)
	}
	all := append(otherAudiences(m), otherForms(m)...)
	all = append(all, changedBits(m)...)
	all = append(all, changedHeaders(m)...)
	for _, make := range []func(material, *ecdsa.PrivateKey) ([]hostile, error){changedClaims, forgedKeys, sharedSecrets} {
		more, err := make(m, own)
		if err != nil {
			return nil, err
		}
		all = append(all, more...)
	}
	return all, nil
}

// otherAudiences show the good token to somebody it was not issued for.
func otherAudiences(m material) []hostile {
	var list []hostile
	for _, audience := range []string{
		"somebody-else", socket.Audience[:len(socket.Audience)-1], socket.Audience + "x", socket.Audience + "/",
		strings.ToUpper(socket.Audience), " " + socket.Audience, socket.Audience + "\x00", "*", ".*",
	} {
		list = append(list, hostile{fmt.Sprintf("audience %q", audience), m.compact, audience})
	}
	return list
}

// otherForms spell the good token another way, its signature still valid.
func otherForms(m material) []hostile {
	parts := strings.Split(m.compact, ".")
	header, payload, signature := parts[0], parts[1], parts[2]
	flat := fmt.Sprintf(`{"protected":%q,"payload":%q,"signature":%q}`, header, payload, signature)
	general := fmt.Sprintf(`{"payload":%q,"signatures":[{"protected":%q,"signature":%q}]}`, payload, header, signature)
	forms := map[string]string{
		"flattened JSON":           flat,
		"general JSON":             general,
		"a space before":           " " + m.compact,
		"a space after":            m.compact + " ",
		"a line break after":       m.compact + "\n",
		"a line break inside":      header + "." + payload[:4] + "\n" + payload[4:] + "." + signature,
		"Bearer before":            "Bearer " + m.compact,
		"padding":                  header + "." + payload + "." + signature + "==",
		"stray bits at the end":    header + "." + payload + "." + strayBits(signature),
		"a fourth part":            m.compact + ".",
		"a fourth part, full":      m.compact + "." + signature,
		"five parts":               header + "." + payload + "." + signature + ".." + signature,
		"an empty part before":     "." + m.compact,
		"two dots between":         header + ".." + payload + "." + signature,
		"no signature":             header + "." + payload + ".",
		"no signature and no dot":  header + "." + payload,
		"no payload":               header + ".." + signature,
		"no header":                "." + payload + "." + signature,
		"the header alone":         header,
		"its last letter cut":      m.compact[:len(m.compact)-1],
		"its half cut":             m.compact[:len(m.compact)/2],
		"dots alone":               strings.Repeat(".", 1000),
		"a megabyte behind it":     m.compact + strings.Repeat("A", 1<<20-8192),
		"a zero byte behind it":    m.compact + "\x00",
		"the token in the payload": header + "." + base64url([]byte(m.compact)) + "." + signature,
	}
	return inOrder(forms)
}

func inOrder(forms map[string]string) []hostile {
	list := make([]hostile, 0, len(forms))
	for _, name := range sortedKeys(forms) {
		list = append(list, hostile{name, forms[name], socket.Audience})
	}
	return list
}

// strayBits changes bits of the last letter that decode to nothing, or else
// gives the letter again, which is no canonical spelling either.
func strayBits(part string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	if len(part)%4 == 0 {
		return part + "A"
	}
	last := strings.IndexByte(alphabet, part[len(part)-1])
	return part[:len(part)-1] + string(alphabet[last^1])
}

// changedBits flips single bits of each part.
func changedBits(m material) []hostile {
	var list []hostile
	parts := strings.Split(m.compact, ".")
	for i, what := range []string{"header", "payload", "signature"} {
		raw, _ := strict.Base64(parts[i]) // it has been decoded before
		for _, at := range []int{0, len(raw) / 2, len(raw) - 1} {
			flipped := append([]byte{}, raw...)
			flipped[at] ^= 1
			changed := append([]string{}, parts...)
			changed[i] = base64url(flipped)
			list = append(list, hostile{fmt.Sprintf("bit %d of the %s flipped", 8*at, what), strings.Join(changed, "."), socket.Audience})
		}
	}
	size := len(parts[2])
	for what, signature := range map[string]string{"zeros": strings.Repeat("A", size), "the payload": parts[1]} {
		list = append(list, hostile{"signature of " + what, parts[0] + "." + parts[1] + "." + signature, socket.Audience})
	}
	return list
}

// changedHeaders keep payload and signature.
func changedHeaders(m material) []hostile {
	parts := strings.Split(m.compact, ".")
	forms := map[string]string{}
	for _, alg := range []any{"none", "None", "NONE", "nOnE", "", "HS256", "HS512", "EdDSA", "ES256K", "ES384", "RS256", "PS256", nil, 1, []string{"none"}} {
		if alg == m.token.Header["alg"] {
			continue
		}
		header := headerWith(m, map[string]any{"alg": alg})
		forms[fmt.Sprintf("alg %#v", alg)] = header + "." + parts[1] + "." + parts[2]
		forms[fmt.Sprintf("alg %#v, unsigned", alg)] = header + "." + parts[1] + "."
	}
	for name, change := range map[string]map[string]any{
		"typ at+jwt": {"typ": "at+jwt"}, "typ wit+jwt": {"typ": "wit+jwt"}, "typ jwt": {"typ": "jwt"}, "typ a number": {"typ": 1},
		"another kid": {"kid": "another"}, "a kid with a path": {"kid": "../../etc/passwd"}, "an empty kid": {"kid": ""}, "a kid that is a number": {"kid": 1},
		"crit exp": {"crit": []string{"exp"}}, "b64 false": {"b64": false, "crit": []string{"b64"}}, "zip": {"zip": "DEF"}, "cty JWT": {"cty": "JWT"},
	} {
		forms[name] = headerWith(m, change) + "." + parts[1] + "." + parts[2]
	}
	return inOrder(forms)
}

// headerWith gives the good header with changes, encoded.
func headerWith(m material, changes map[string]any) string {
	header := maps.Clone(m.token.Header)
	maps.Copy(header, changes)
	return encoded(header)
}

// changedClaims carry what a thief would rather have, under the old signature
// and under one of the forger's own.
func changedClaims(m material, own *ecdsa.PrivateKey) ([]hostile, error) {
	parts := strings.Split(m.compact, ".")
	payloads := map[string]string{
		"sub of another":     claimsWith(m, "sub", "spiffe://elsewhere.example/admin"),
		"aud of another":     claimsWith(m, "aud", []string{socket.Audience, "another"}),
		"exp in the future":  claimsWith(m, "exp", 4102444800),
		"exp as text":        claimsWith(m, "exp", "4102444800"),
		"no exp":             claimsWith(m, "exp", nil),
		"no aud":             claimsWith(m, "aud", nil),
		"no sub":             claimsWith(m, "sub", nil),
		"sub twice":          doubled(m, "sub"),
		"exp twice":          doubled(m, "exp"),
		"sub twice, escaped": doubled(m, `\u0073ub`),
	}
	forms := map[string]string{}
	for name, payload := range payloads {
		forms[name] = parts[0] + "." + payload + "." + parts[2]
		forged, err := signES256(headerWith(m, map[string]any{"alg": "ES256"})+"."+payload, own)
		if err != nil {
			return nil, err
		}
		forms[name+", signed by a forger"] = forged
	}
	return inOrder(forms), nil
}

func claimsWith(m material, name string, value any) string {
	claims := maps.Clone(m.token.Claims)
	if claims[name] = value; value == nil {
		delete(claims, name)
	}
	return encoded(claims)
}

// doubled gives the claims with one name a second time.
func doubled(m material, name string) string {
	raw, _ := json.Marshal(m.token.Claims) // it has been read from JSON
	return base64url([]byte(`{"` + name + `":"spiffe://elsewhere.example/admin",` + string(raw[1:])))
}

// forgedKeys name or bring the forger's own key.
func forgedKeys(m material, own *ecdsa.PrivateKey) ([]hostile, error) {
	point, err := own.PublicKey.Bytes()
	if err != nil {
		return nil, fmt.Errorf("encode the forger's key: %w", err)
	}
	jwk := map[string]any{"kty": "EC", "crv": "P-256", "x": base64url(point[1:33]), "y": base64url(point[33:])}
	der, err := forgedCertificate(own)
	if err != nil {
		return nil, err
	}
	payload := strings.Split(m.compact, ".")[1]
	forms := map[string]string{}
	for name, change := range map[string]map[string]any{
		"a forger's signature, the kid kept": {},
		"a forger's key in jwk":              {"jwk": jwk},
		"a forger's key in jwk, no kid":      {"jwk": jwk, "kid": nil},
		"a forger's key in x5c":              {"x5c": []string{base64.StdEncoding.EncodeToString(der)}},
		"a forger's address in jku":          {"jku": "http://127.0.0.1:9/keys"},
		"a forger's address in x5u":          {"x5u": "http://127.0.0.1:9/cert"},
		"a forger's signature, no kid":       {"kid": nil},
	} {
		change["alg"] = "ES256"
		if forms[name], err = signES256(withoutNil(m, change)+"."+payload, own); err != nil {
			return nil, err
		}
	}
	if key, ok := m.x509Key.(*ecdsa.PrivateKey); ok && key.Curve == elliptic.P256() {
		for _, kid := range []any{m.token.Header["kid"], nil} {
			name := fmt.Sprintf("signed with the key of an X.509-SVID, kid %v", kid != nil)
			if forms[name], err = signES256(withoutNil(m, map[string]any{"alg": "ES256", "kid": kid})+"."+payload, key); err != nil {
				return nil, err
			}
		}
	}
	return inOrder(forms), nil
}

func withoutNil(m material, changes map[string]any) string {
	header := maps.Clone(m.token.Header)
	maps.Copy(header, changes)
	maps.DeleteFunc(header, func(_ string, value any) bool { return value == nil })
	return encoded(header)
}

// sharedSecrets take the public key, which everybody has, for a secret.
func sharedSecrets(m material, _ *ecdsa.PrivateKey) ([]hostile, error) {
	der, err := x509.MarshalPKIXPublicKey(m.public)
	if err != nil {
		return nil, fmt.Errorf("encode the signing key: %w", err)
	}
	secrets := map[string][]byte{
		"DER": der, "PEM": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), "nothing": nil,
	}
	if key, ok := m.public.(*rsa.PublicKey); ok {
		secrets["the modulus"] = key.N.Bytes()
	}
	signed := headerWith(m, map[string]any{"alg": "HS256"}) + "." + strings.Split(m.compact, ".")[1]
	forms := map[string]string{}
	for name, secret := range secrets {
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(signed))
		forms["HS256 keyed with the public key as "+name] = signed + "." + base64url(mac.Sum(nil))
	}
	return inOrder(forms), nil
}
