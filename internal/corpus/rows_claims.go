package corpus

import (
	"fmt"
	"strings"
	"time"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/identity/svid"
)

// audienceCases are V-66 and V-67.
func (w *World) audienceCases() []TokenCase {
	web := w.A.ID("/web")
	aud := func(value string) func(*Token) { return setClaims(w.claims(web, value, "")) }
	bad := func(name string, want svid.Reason, value string) TokenCase {
		return w.badToken("V-66", name, want, aud(value))
	}
	own := func(audience ...string) TokenCase {
		c := w.token(nil)
		c.Audience, c.Exact = audience, true
		return c
	}
	missing := fmt.Sprintf(`{"sub":%q,"exp":%d}`, web, w.Now.Add(time.Hour).Unix())
	crowd := "[" + strings.Repeat(`"x",`, 100_000) + `"api"]`
	return []TokenCase{
		w.badToken("V-66", "missing", svid.BadAudience, setClaims(missing)),
		bad("empty-list", svid.BadAudience, `[]`), bad("list-of-empty", svid.BadAudience, `[""]`),
		bad("empty-beside-good", svid.BadAudience, `["api",""]`), bad("empty", svid.BadAudience, `""`),
		bad("object", svid.BadAudience, `{}`), bad("number", svid.BadAudience, `1`), bad("null", svid.BadAudience, `null`),
		bad("nested-list", svid.BadAudience, `[["api"]]`), bad("number-beside-good", svid.BadAudience, `["api",1]`),
		bad("other", svid.WrongAudience, `["other"]`), bad("prefix", svid.WrongAudience, `["ap"]`),
		bad("longer", svid.WrongAudience, `["api2"]`), bad("case", svid.WrongAudience, `["API"]`),
		bad("trailing-slash", svid.WrongAudience, `["api/"]`), bad("joined", svid.WrongAudience, `"other,api"`),
		bad("100000-elements", svid.TooLarge, crowd),
		acceptedToken("V-66", "text", w.token(aud(`"api"`))),
		acceptedToken("V-66", "second-of-two", w.token(aud(`["other","api"]`))),
		refusedToken("V-67", "no-audience-configured", svid.NoAudience, own(), own("api")),
		refusedToken("V-67", "empty-audience-configured", svid.NoAudience, own(""), own("api")),
		refusedToken("V-67", "empty-beside-good-configured", svid.NoAudience, own("api", ""), own("other", "api")),
	}
}

// dateCases are V-68 and V-69.
func (w *World) dateCases() []TokenCase {
	web := w.A.ID("/web")
	exp := func(value string) func(*Token) {
		return setClaims(fmt.Sprintf(`{"sub":%q,"aud":["api"],"exp":%s}`, web, value))
	}
	at := func(d time.Duration) string { return quoted(w.Now.Add(d).Unix()) }
	bad := func(name string, want svid.Reason, value string) TokenCase {
		return w.badToken("V-68", name, want, exp(value))
	}
	more := func(row, name string, want svid.Reason, text string) TokenCase {
		return w.badToken(row, name, want, setClaims(w.claims(web, `"api"`, text)))
	}
	lenient := func(d time.Duration) TokenCase {
		c := w.token(exp(at(d)))
		c.Options.Leeway, c.Exact = time.Minute, true
		return c
	}
	exact := func(c TokenCase) TokenCase { c.Exact = true; return c }
	return append([]TokenCase{
		w.badToken("V-68", "missing", svid.NoExpiry, setClaims(fmt.Sprintf(`{"sub":%q,"aud":"api"}`, web))),
		bad("null", svid.NoExpiry, `null`), bad("text", svid.BadExpiry, `"1"`), bad("1e30", svid.BadExpiry, `1e30`),
		bad("1e400", svid.BadExpiry, `1e400`), bad("exponent", svid.BadExpiry, `9.9e9`), bad("NaN", svid.BadClaims, `NaN`),
		bad("negative", svid.BadExpiry, `-1`), bad("minus-zero", svid.BadExpiry, `-0`), bad("list", svid.BadExpiry, `[9999999999]`),
		bad("over-64-bits", svid.BadExpiry, `18446744073709551617`), bad("year-10000", svid.BadExpiry, `253402300800`),
		bad("zero", svid.Expired, `0`), bad("past", svid.Expired, at(-time.Hour)),
		exact(refusedToken("V-68", "now", svid.Expired, w.token(exp(at(0))), w.token(exp(at(time.Second))))),
		refusedToken("V-68", "past-leeway", svid.Expired, lenient(-time.Minute), lenient(-59*time.Second)),
		w.tenYears(at(-time.Hour)), w.tenYears(at(87_599 * time.Hour)),
		acceptedToken("V-68", "fraction", w.token(exp(at(time.Hour)+".25"))),
		more("V-69", "nbf-in-the-future", svid.NotYetValid, `,"nbf":`+at(time.Hour)),
		more("V-69", "nbf-text", svid.BadNotBefore, `,"nbf":"1"`), more("V-69", "nbf-null", svid.BadNotBefore, `,"nbf":null`),
		more("V-69", "iat-text", svid.BadIssuedAt, `,"iat":"1"`), more("V-69", "jti-number", svid.BadJTI, `,"jti":1`),
		acceptedToken("V-69", "iat-in-the-future", w.token(setClaims(w.claims(web, `"api"`, `,"iat":`+at(time.Hour))))),
		acceptedToken("V-69", "nbf-now", w.token(setClaims(w.claims(web, `"api"`, `,"nbf":`+at(0))))),
	}, w.revokedToken())
}

// tenYears is the last of V-68: a life over the verifier's limit, whatever the
// token says about its beginning.
func (w *World) tenYears(iat string) TokenCase {
	life := func(d time.Duration) TokenCase {
		c := w.token(setClaims(fmt.Sprintf(`{"sub":%q,"aud":"api","iat":%s,"exp":%d}`, w.A.ID("/web"), iat, w.Now.Add(d).Unix())))
		c.Options.MaxAge, c.Exact = 24*time.Hour, true
		return c
	}
	return refusedToken("V-68", "ten-years-from-iat-"+iat, svid.LifetimeTooLong, life(87_600*time.Hour), life(time.Hour))
}

// revokedToken is V-40 for tokens.
func (w *World) revokedToken() TokenCase {
	with := func(jti string) TokenCase {
		c := w.token(setClaims(w.claims(w.A.ID("/web"), `"api"`, fmt.Sprintf(`,"jti":%q`, jti))))
		c.Options.Revoked, c.Exact = revokedOnly(w.A.ID("/web"), "token-1"), true
		return c
	}
	return refusedToken("V-40", "jti-on-the-list", svid.RevokedSVID, with("token-1"), with("token-2"))
}

// subjectCases are V-70.
func (w *World) subjectCases() []TokenCase {
	sub := func(json string) func(*Token) {
		return setClaims(fmt.Sprintf(`{"sub":%s,"aud":"api","exp":%d}`, json, w.Now.Add(time.Hour).Unix()))
	}
	bad := func(name string, want svid.Reason, json string) TokenCase {
		return w.badToken("V-70", name, want, sub(json))
	}
	id := func(fault identity.Fault) svid.Reason { return svid.Reason("id-" + string(fault)) }
	long := func(size int) string {
		prefix := w.A.ID("/")
		return fmt.Sprintf("%q", prefix+strings.Repeat("x", size-len(prefix)))
	}
	longest := w.token(sub(long(2048)))
	longest.ID = w.id(strings.Trim(long(2048), `"`))
	return []TokenCase{
		w.badToken("V-70", "missing", svid.BadSubject, setClaims(fmt.Sprintf(`{"aud":"api","exp":%d}`, w.Now.Add(time.Hour).Unix()))),
		bad("list", svid.BadSubject, `["spiffe://a.example/web"]`), bad("null", svid.BadSubject, `null`),
		bad("not-an-ID", id(identity.FaultScheme), `"web"`), bad("https", id(identity.FaultScheme), `"https://a.example/web"`),
		bad("root-path", id(identity.FaultTrailingSlash), `"spiffe://a.example/"`),
		bad("no-path", svid.NoPath, `"spiffe://a.example"`),
		bad("upper-case-trust-domain", id(identity.FaultTrustDomainCase), `"spiffe://A.example/web"`),
		bad("NUL", id(identity.FaultPathChars), `"spiffe://a.example/web\u0000"`),
		bad("fragment", id(identity.FaultFragment), `"spiffe://a.example/web#"`),
		refusedToken("V-70", "2049-bytes", id(identity.FaultTooLong), w.token(sub(long(2049))), longest),
	}
}

// duplicateCases are V-71: two readers must not read two things.
func (w *World) duplicateCases() []TokenCase {
	evil := func(name string) string {
		return w.claims(w.A.ID("/web"), `"api"`, fmt.Sprintf(`,"%s":"spiffe://a.example/admin"`, name))
	}
	claim := func(name, spelled string) TokenCase {
		return w.badToken("V-71", name, svid.DuplicateClaim, setClaims(evil(spelled)))
	}
	head := func(name, more string) TokenCase {
		return w.badToken("V-71", name, svid.DuplicateHeader, setHeader(header("ES256", KeyES256, more)))
	}
	return []TokenCase{
		claim("sub-twice", "sub"), claim("sub-and-SUB", "SUB"), claim("sub-escaped", `\u0073ub`), claim("sub-with-long-s", "ſub"),
		w.badToken("V-71", "nested", svid.DuplicateClaim, setClaims(w.claims(w.A.ID("/web"), `"api"`, `,"x":[{"a":1,"a":2}]`))),
		w.badToken("V-71", "letters-beyond-ASCII", svid.DuplicateClaim, setClaims(w.claims(w.A.ID("/web"), `"api"`, `,"жук":1,"ЖУК":2`))),
		head("alg-twice", `,"alg":"none"`), head("alg-and-ALG", `,"ALG":"none"`), head("alg-escaped", `,"\u0061lg":"none"`),
		w.badToken("V-71", "only-SUB", svid.BadSubject, setClaims(fmt.Sprintf(`{"SUB":%q,"aud":"api","exp":%d}`, w.A.ID("/web"), w.Now.Add(time.Hour).Unix()))),
		acceptedToken("V-71", "same-name-in-two-objects", w.token(setClaims(w.claims(w.A.ID("/web"), `"api"`, `,"x":{"sub":1},"y":{"sub":2}`)))),
	}
}
