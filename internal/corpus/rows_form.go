package corpus

import (
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/authsec-ai/icp/identity/svid"
)

// formCases are V-72: anything but one compact JWS.
func (w *World) formCases() []TokenCase {
	good := w.Sign(nil)
	parts := strings.Split(good, ".")
	form := func(name string, want svid.Reason, f func(string) string) TokenCase {
		return w.badToken("V-72", name, want, finish(f))
	}
	flattened := fmt.Sprintf(`{"protected":%q,"payload":%q,"signature":%q}`, parts[0], parts[1], parts[2])
	cty := setHeader(header("ES256", KeyES256, `,"cty":"JWT"`))
	return []TokenCase{
		w.badToken("V-72", "nested-with-cty", svid.HeaderParameter, func(t *Token) { cty(t); t.Claims = good }),
		w.badToken("V-72", "nested-without-cty", svid.BadClaims, setClaims(good)),
		w.badToken("V-72", "payload-is-text", svid.BadClaims, setClaims(fmt.Sprintf("%q", good))),
		form("JWE", svid.NotCompact, func(s string) string { return s + ".AAAA.AAAA" }),
		form("four-dots", svid.NotCompact, func(s string) string { return s + ".." }),
		form("three-dots", svid.NotCompact, func(s string) string { return s + "." }),
		form("one-dot", svid.NotCompact, func(s string) string { return s[:strings.LastIndex(s, ".")] }),
		form("empty", svid.NotCompact, func(string) string { return "" }),
		form("flattened-JSON", svid.NotCompact, func(string) string { return flattened }),
		form("general-JSON", svid.NotCompact, func(string) string {
			return fmt.Sprintf(`{"payload":%q,"signatures":[{"protected":%q,"signature":%q}]}`, parts[1], parts[0], parts[2])
		}),
		form("leading-space", svid.BadBase64, func(s string) string { return " " + s }),
		form("trailing-space", svid.BadBase64, func(s string) string { return s + " " }),
		form("trailing-line-break", svid.BadBase64, func(s string) string { return s + "\n" }),
		form("line-break-inside", svid.BadBase64, func(s string) string { return s[:9] + "\r\n" + s[9:] }),
		form("padding", svid.BadBase64, func(s string) string { return s + "==" }),
		form("last-bits-not-zero", svid.BadBase64, lastBits),
		w.standardBase64(),
		form("payload-with-padding", svid.BadBase64, func(s string) string { return strings.Replace(s, ".", ".=", 1) }),
		w.badToken("V-72", "nothing-in-header", svid.BadHeader, finish(func(s string) string { return s[strings.Index(s, "."):] })),
	}
}

// lastBits sets a bit after the last byte of a 64-byte signature, which a lax
// decoder drops.
func lastBits(token string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, token[len(token)-1])
	return token[:len(token)-1] + string(alphabet[last|1])
}

// standardBase64 is signed again until its signature shows a difference between
// the two alphabets; of 86 characters two or three do, so a few tries suffice.
func (w *World) standardBase64() TokenCase {
	token := w.Sign(nil)
	for range 100 {
		if signature := token[strings.LastIndex(token, ".")+1:]; strings.ContainsAny(signature, "-_") {
			break
		}
		token = w.Sign(nil)
	}
	swap := func(string) string {
		dot := strings.LastIndex(token, ".")
		return token[:dot] + strings.NewReplacer("-", "+", "_", "/").Replace(token[dot:])
	}
	return w.badToken("V-72", "standard-alphabet", svid.BadBase64, finish(swap))
}

// sizeCases are V-73: refused before anything is allocated for it.
func (w *World) sizeCases() []TokenCase {
	instead := func(text string) func(*Token) { return finish(func(string) string { return text }) }
	nested := func(depth int) string {
		return w.claims(w.A.ID("/web"), `"api"`, `,"x":`+strings.Repeat("[", depth)+strings.Repeat("]", depth))
	}
	pad := func(size int) func(*Token) {
		return setClaims(w.claims(w.A.ID("/web"), `"api"`, `,"x":"`+strings.Repeat("x", size)+`"`))
	}
	head := base64.RawURLEncoding.EncodeToString([]byte(header("ES256", KeyES256, "")))
	return []TokenCase{
		w.badToken("V-73", "1-MiB", svid.TooLarge, pad(1<<20)),
		refusedToken("V-73", "just-too-large", svid.TooLarge, w.sized(svid.MaxTokenBytes+1), w.sized(svid.MaxTokenBytes)),
		w.badToken("V-73", "million-dots", svid.TooLarge, instead(strings.Repeat(".", 1_000_000))),
		w.badToken("V-73", "ten-thousand-dots", svid.NotCompact, instead(head+strings.Repeat(".", 10_000))),
		w.badToken("V-73", "JSON-ten-thousand-deep", svid.TooLarge, setClaims(nested(10_000))),
		w.badToken("V-73", "JSON-five-thousand-deep", svid.BadClaims, setClaims(nested(5_000))),
		refusedToken("V-73", "JSON-sixteen-deep", svid.BadClaims, w.token(setClaims(nested(16))), w.token(setClaims(nested(15)))),
		w.badToken("V-73", "JSON-deep-in-header", svid.BadHeader, setHeader(`{"alg":`+strings.Repeat("[", 5000)+strings.Repeat("]", 5000)+`}`)),
		w.badToken("V-73", "invalid-UTF-8", svid.BadClaims, setClaims(w.claims(w.A.ID("/web"), `"api"`, ",\"x\":\"\xff\""))),
		w.badToken("V-73", "BOM", svid.BadClaims, setClaims("\xef\xbb\xbf"+w.claims(w.A.ID("/web"), `"api"`, ""))),
		w.badToken("V-73", "two-objects", svid.BadClaims, setClaims(w.claims(w.A.ID("/web"), `"api"`, "")+"{}")),
		w.badToken("V-73", "comment", svid.BadClaims, setClaims("{/**/"+w.claims(w.A.ID("/web"), `"api"`, "")[1:])),
	}
}

// sized is a good token of about the size: as large as fits, or one base64
// group over.
func (w *World) sized(size int) TokenCase {
	with := func(pad int) TokenCase {
		return w.token(setClaims(w.claims(w.A.ID("/web"), `"api"`, `,"x":"`+strings.Repeat("x", pad)+`"`)))
	}
	pad := (size - len(with(0).Token)) * 3 / 4
	for range 8 {
		c := with(pad)
		switch {
		case size <= svid.MaxTokenBytes && len(c.Token) > size:
			pad--
		case size > svid.MaxTokenBytes && len(c.Token) < size:
			pad++
		default:
			return c
		}
	}
	w.note(fmt.Errorf("no token of %d bytes", size))
	return with(0)
}

// revokedOnly revokes one credential of one identity.
func revokedOnly(id, serial string) svid.Revoked {
	return func(of spiffeid.ID, s string) bool { return of.String() == id && s == serial }
}
