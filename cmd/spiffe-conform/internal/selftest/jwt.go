package selftest

import (
	"fmt"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"

	"github.com/authsec-ai/icp/cmd/spiffe-conform/internal/builtin"
)

func jwtBreakages() []Breakage {
	compact := func(row, name, says string, edit func(string) string) Breakage {
		return Breakage{Row: row, Name: name, Says: says, Behaviour: builtin.Behaviour{Compact: edit}}
	}
	header := func(row, name, says string, member string, value any) Breakage {
		return Breakage{Row: row, Name: name, Says: says, Behaviour: builtin.Behaviour{Token: func(h, _ map[string]any) { set(h, member, value) }}}
	}
	claim := func(row, name, says string, member string, value any) Breakage {
		return Breakage{Row: row, Name: name, Says: says, Behaviour: builtin.Behaviour{Token: func(_, c map[string]any) { set(c, member, value) }}}
	}
	return []Breakage{
		compact("JWT-01", "flattened JSON", "not the 3 of a compact JWS", func(token string) string {
			parts := strings.Split(token, ".")
			return fmt.Sprintf(`{"protected":%q,"payload":%q,"signature":%q}`, parts[0], parts[1], parts[2])
		}),
		compact("JWT-01", "padded base64", "the signature is not canonical", func(token string) string { return token + "==" }),
		compact("JWT-01", "five parts", "has 5 parts", func(token string) string { return token + ".." }),
		header("JWT-02", "jku in the header", `the header has "jku"`, "jku", "https://home.example/keys"),
		header("JWT-02", "a private header", `the header has "icp"`, "icp", true),
		header("JWT-04", "alg none", "none of the nine", "alg", "none"),
		header("JWT-04", "alg HS256", "none of the nine", "alg", "HS256"),
		header("JWT-04", "alg EdDSA", "none of the nine", "alg", "EdDSA"),
		header("JWT-04", "no alg", "none of the nine", "alg", nil),
		header("JWT-06", "no kid", "kid is <nil>", "kid", nil),
		header("JWT-06", "a kid that no bundle has", "no key of the JWT bundle", "kid", "another"),
		header("JWT-06", "an alg that does not fit the key", "does not fit", "alg", "ES384"),
		compact("JWT-06", "a signature by nobody", "the signature is wrong", func(token string) string {
			at := strings.LastIndex(token, ".") + 20
			swapped := "A"
			if token[at] == 'A' {
				swapped = "B"
			}
			return token[:at] + swapped + token[at+1:]
		}),
		header("JWT-07", "typ at+jwt", "typ is at+jwt", "typ", "at+jwt"),
		header("JWT-07", "typ in small letters", "typ is jwt", "typ", "jwt"),
		claim("JWT-08", "sub that is no SPIFFE ID", "does not start with spiffe://", "sub", "first"),
		claim("JWT-08", "sub of a trust domain", "has no path", "sub", "spiffe://home.example"),
		claim("JWT-08", "sub of another identity", "sub is spiffe://home.example/another", "sub", "spiffe://home.example/another"),
		claim("JWT-08", "no sub", "sub is <nil>", "sub", nil),
		claim("JWT-09", "no aud", "aud is <nil>", "aud", nil),
		claim("JWT-09", "an empty list as aud", "it needs a value", "aud", []string{}),
		claim("JWT-09", "empty text as aud", "it needs a value", "aud", ""),
		claim("JWT-12", "no exp", "exp is <nil>", "exp", nil),
		claim("JWT-12", "exp as text", "which is no number", "exp", "4102444800"),
		claim("JWT-12", "exp in the past", "it expired at", "exp", time.Now().Add(-time.Hour).Unix()),
	}
}

// set changes a member; nil removes it.
func set(object map[string]any, member string, value any) {
	if object[member] = value; value == nil {
		delete(object, member)
	}
}

func bundleBreakages() []Breakage {
	key := func(row, name, says string, member string, value any) Breakage {
		return Breakage{Row: row, Name: name, Says: says, Behaviour: builtin.Behaviour{JWK: func(jwk map[string]any) { set(jwk, member, value) }}}
	}
	keys := func(row, name, says string, edit func(map[string]any)) Breakage {
		return Breakage{Row: row, Name: name, Says: says, Behaviour: builtin.Behaviour{JWKS: edit}}
	}
	twice := func(object map[string]any) { list := object["keys"].([]any); object["keys"] = append(list, list[0]) }
	text := func(content string) builtin.Behaviour {
		return builtin.Behaviour{JWTBundles: func(m *workload.JWTBundlesResponse) { m.Bundles["spiffe://home.example"] = []byte(content) }}
	}
	return []Breakage{
		key("JWT-16", "no kid", "kid is <nil>", "kid", nil),
		key("JWT-16", "use x509-svid", "use is x509-svid", "use", "x509-svid"),
		key("JWT-16", "use in capitals", "use is JWT-SVID", "use", "JWT-SVID"),
		keys("JWT-16", "a kid twice", "is there twice", twice),
		key("TDB-02", "a private key", "a part of the private key", "d", "AAAA"),
		key("TDB-02", "a point off the curve", "is no point of P-256", "x", strings.Repeat("A", 43)),
		key("TDB-02", "an unknown curve", "crv is P-224", "crv", "P-224"),
		{Row: "TDB-02", Name: "no JSON", Says: "is not JSON", Behaviour: text("-----BEGIN PUBLIC KEY-----")},
		{Row: "TDB-02", Name: "keys twice", Says: "is there twice", Behaviour: text(`{"keys":[],"keys":[]}`)},
		{Row: "TDB-06", Name: "a bare list", Says: "is no JSON object", Behaviour: text("[]")},
		keys("TDB-06", "no keys", "keys is <nil>", func(object map[string]any) { delete(object, "keys") }),
		keys("TDB-06", "keys null", "keys is <nil>", func(object map[string]any) { object["keys"] = nil }),
		keys("TDB-06", "keys an object", "not a list", func(object map[string]any) { object["keys"] = map[string]any{} }),
		key("TDB-07", "no kty", "kty is <nil>", "kty", nil),
		key("TDB-07", "kty AKP", "kty is AKP", "kty", "AKP"),
	}
}
