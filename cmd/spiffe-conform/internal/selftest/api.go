package selftest

import (
	"encoding/pem"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/authsec-ai/icp/cmd/spiffe-conform/internal/builtin"
)

const (
	home    = "spiffe://home.example"
	foreign = "spiffe://foreign.example"
)

// svids edits the messages of FetchX509SVID.
func svids(row, name, says string, edit func(*workload.X509SVIDResponse)) Breakage {
	return Breakage{Row: row, Name: name, Says: says, Behaviour: builtin.Behaviour{X509: func(_ int, m *workload.X509SVIDResponse) { edit(m) }}}
}

// x509Bundles edits the messages of FetchX509Bundles.
func x509Bundles(row, name, says string, edit func(map[string][]byte)) Breakage {
	return Breakage{Row: row, Name: name, Says: says, Behaviour: builtin.Behaviour{X509Bundles: func(m *workload.X509BundlesResponse) { edit(m.Bundles) }}}
}

// jwtBundles edits the messages of FetchJWTBundles.
func jwtBundles(row, name, says string, edit func(map[string][]byte)) Breakage {
	return Breakage{Row: row, Name: name, Says: says, Behaviour: builtin.Behaviour{JWTBundles: func(m *workload.JWTBundlesResponse) { edit(m.Bundles) }}}
}

// refuses answers some methods with an error.
func refuses(row, name, says string, code codes.Code, methods ...string) Breakage {
	return Breakage{Row: row, Name: name, Says: says, Behaviour: builtin.Behaviour{Refuse: func(method string, _ any) error {
		if slices.ContainsFunc(methods, func(suffix string) bool { return strings.HasSuffix(method, "/"+suffix) }) {
			return status.Error(code, "refused on purpose")
		}
		return nil
	}}}
}

func apiBreakages() []Breakage {
	return slices.Concat(profileBreakages(), fieldBreakages(), messageBreakages(), hintBreakages(), bundleMapBreakages(), tokenBreakages())
}

func profileBreakages() []Breakage {
	return []Breakage{
		refuses("WLAPI-01", "no FetchX509Bundles", "of the X.509 profile's methods 1 serve", codes.Unimplemented, "FetchX509Bundles"),
		refuses("WLAPI-01", "no ValidateJWTSVID", "of the JWT profile's methods 2 serve", codes.Unimplemented, "ValidateJWTSVID"),
		refuses("WLAPI-01", "a method that fails", "a method of the JWT profile gives", codes.Internal, "FetchJWTBundles"),
		refuses("WLAPI-01", "no method at all", "neither profile is served", codes.Unimplemented,
			"FetchX509SVID", "FetchX509Bundles", "FetchJWTSVID", "FetchJWTBundles", "ValidateJWTSVID"),
		{Row: "WLAPI-02", Name: "half of the profile", Says: "the other is not", Behaviour: builtin.Behaviour{WIT: true}},
		refuses("WLAPI-02", "another code", "FetchWITBundles gives NotFound", codes.NotFound, "FetchWITBundles"),
		{Row: "WLAPI-04", Name: "a wait before the first message", Says: "1 in 100 took", Behaviour: builtin.Behaviour{FirstMessage: atOnce + 50*time.Millisecond}},
	}
}

// fieldBreakages do without a field that a request must have.
func fieldBreakages() []Breakage {
	anyAudience := func(name, says string, requested []string) Breakage {
		return Breakage{Row: "WLAPI-09", Name: name, Says: says, Behaviour: builtin.Behaviour{Refuse: func(_ string, request any) error {
			if r, ok := request.(*workload.JWTSVIDRequest); ok && slices.Equal(r.GetAudience(), requested) {
				r.Audience = []string{"anybody"}
			}
			return nil
		}}}
	}
	validate := func(name, says string, lacks func(*workload.ValidateJWTSVIDRequest) bool, code codes.Code) Breakage {
		return Breakage{Row: "WLAPI-09", Name: name, Says: says, Behaviour: builtin.Behaviour{
			Validate: func(request *workload.ValidateJWTSVIDRequest, _ *workload.ValidateJWTSVIDResponse, err error) error {
				if lacks(request) {
					return status.Error(code, "on purpose") // nil for OK
				}
				return err
			}}}
	}
	noAudience := func(r *workload.ValidateJWTSVIDRequest) bool { return r.GetAudience() == "" }
	noToken := func(r *workload.ValidateJWTSVIDRequest) bool { return r.GetSvid() == "" }
	return []Breakage{
		anyAudience("a token without audience", "FetchJWTSVID without audience gives OK", nil),
		anyAudience("a token for nobody", "FetchJWTSVID with an empty audience gives OK", []string{""}),
		validate("validation without audience", "ValidateJWTSVID without audience gives OK", noAudience, codes.OK),
		validate("validation without a token", "ValidateJWTSVID without svid gives OK", noToken, codes.OK),
		validate("another code", "ValidateJWTSVID without svid gives Unauthenticated", noToken, codes.Unauthenticated),
	}
}

func messageBreakages() []Breakage {
	toPEM := func(der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}) }
	return []Breakage{
		svids("WLAPI-12", "no SVID", "gives no SVID", func(m *workload.X509SVIDResponse) { m.Svids = nil }),
		svids("WLAPI-12", "no ID", "SVID 1 has no spiffe_id", func(m *workload.X509SVIDResponse) { m.Svids[1].SpiffeId = "" }),
		svids("WLAPI-12", "no certificate", "has no x509_svid", func(m *workload.X509SVIDResponse) { m.Svids[0].X509Svid = nil }),
		svids("WLAPI-12", "no key", "has no x509_svid_key", func(m *workload.X509SVIDResponse) { m.Svids[0].X509SvidKey = nil }),
		svids("WLAPI-12", "no bundle", "has no bundle", func(m *workload.X509SVIDResponse) { m.Svids[0].Bundle = nil }),
		svids("WLAPI-13", "PEM", "is PEM", func(m *workload.X509SVIDResponse) { m.Svids[0].X509Svid = toPEM(m.Svids[0].X509Svid) }),
		svids("WLAPI-13", "a bundle in PEM", "is PEM", func(m *workload.X509SVIDResponse) { m.Svids[0].Bundle = toPEM(m.Svids[0].Bundle) }),
		svids("WLAPI-13", "padding", "is not concatenated DER", func(m *workload.X509SVIDResponse) {
			m.Svids[0].X509Svid = slices.Concat(m.Svids[0].X509Svid, []byte{0})
		}),
		svids("WLAPI-13", "a key with something behind it", "bytes after the key", func(m *workload.X509SVIDResponse) {
			m.Svids[0].X509SvidKey = slices.Concat(m.Svids[0].X509SvidKey, []byte{0})
		}),
		svids("WLAPI-13", "the key of another SVID", "its key is not that of its certificate", func(m *workload.X509SVIDResponse) { m.Svids[0].X509SvidKey = m.Svids[1].X509SvidKey }),
		svids("WLAPI-13", "the ID of another SVID", "its certificate says", func(m *workload.X509SVIDResponse) { m.Svids[0].SpiffeId = home + "/other" }),
		svids("WLAPI-13", "another's bundle", "does not verify with its own bundle", func(m *workload.X509SVIDResponse) { m.Svids[0].Bundle = m.FederatedBundles[foreign] }),
		svids("WLAPI-13", "the intermediate first", "its certificate says", func(m *workload.X509SVIDResponse) { m.Svids[0].X509Svid = leafLast(m.Svids[0].X509Svid) }),
		x509Bundles("WLAPI-13", "PEM in FetchX509Bundles", "is PEM", func(bundles map[string][]byte) { bundles[home] = toPEM(bundles[home]) }),
		svids("WLAPI-13", "PEM in federated_bundles", "beside the SVIDs is PEM", func(m *workload.X509SVIDResponse) { m.FederatedBundles[foreign] = toPEM(m.FederatedBundles[foreign]) }),
	}
}

func hintBreakages() []Breakage {
	long := strings.Repeat("h", 1025)
	tokens := func(row, name, says, hint string) Breakage {
		return Breakage{Row: row, Name: name, Says: says, Behaviour: builtin.Behaviour{JWT: func(_ *workload.JWTSVIDRequest, m *workload.JWTSVIDResponse) {
			for _, svid := range m.Svids {
				svid.Hint = hint
			}
		}}}
	}
	return []Breakage{
		svids("WLAPI-14", "one hint for both", "FetchX509SVID gives the hint \"external\" twice", func(m *workload.X509SVIDResponse) { m.Svids[0].Hint = m.Svids[1].Hint }),
		tokens("WLAPI-14", "one hint for both tokens", "FetchJWTSVID gives the hint \"both\" twice", "both"),
		svids("WLAPI-16", "a long hint", "FetchX509SVID gives a hint of 1025 bytes", func(m *workload.X509SVIDResponse) { m.Svids[1].Hint = long }),
		tokens("WLAPI-16", "a token's long hint", "FetchJWTSVID gives a hint of 1025 bytes", long),
	}
}

// leafLast turns leaf and intermediate round. The outer length of DER, of four
// bytes here, says where the first ends.
func leafLast(chain []byte) []byte {
	first := 4 + int(chain[2])<<8 + int(chain[3])
	return slices.Concat(chain[first:], chain[:first])
}

func bundleMapBreakages() []Breakage {
	rename := func(to string) func(map[string][]byte) {
		return func(bundles map[string][]byte) { bundles[to] = bundles[foreign]; delete(bundles, foreign) }
	}
	return []Breakage{
		svids("WLAPI-19", "a bare name in federated_bundles", `a bundle's key is "foreign.example"`, func(m *workload.X509SVIDResponse) { rename("foreign.example")(m.FederatedBundles) }),
		x509Bundles("WLAPI-19", "a path in FetchX509Bundles", "a bundle's key is", rename(foreign+"/ca")),
		jwtBundles("WLAPI-19", "a slash in FetchJWTBundles", "a bundle's key is", rename(foreign+"/")),
		x509Bundles("WLAPI-20", "no bundle of the own trust domain", "is empty", func(bundles map[string][]byte) { delete(bundles, home) }),
		x509Bundles("WLAPI-20", "another's anchor for the own trust domain", "lacks an anchor", func(bundles map[string][]byte) { bundles[home] = bundles[foreign] }),
		{Row: "WLAPI-21", Name: "a JWT key as an anchor", Says: "also in the X.509 bundle", Behaviour: builtin.Behaviour{SharedKey: true}},
		jwtBundles("WLAPI-24", "no bundle of the own trust domain", "no bundle of "+home, func(bundles map[string][]byte) { delete(bundles, home) }),
		{Row: "WLAPI-24", Name: "an X.509 key among them", Says: "of another use: use x509-svid", Behaviour: builtin.Behaviour{JWK: func(jwk map[string]any) { jwk["use"] = "x509-svid" }}},
		{Row: "WLAPI-24", Name: "a certificate among them", Says: "x5c there: true", Behaviour: builtin.Behaviour{JWK: func(jwk map[string]any) { jwk["x5c"] = []string{"AAAA"} }}},
	}
}

func tokenBreakages() []Breakage {
	tokens := func(row, name, says string, edit func(*workload.JWTSVIDRequest, *workload.JWTSVIDResponse)) Breakage {
		return Breakage{Row: row, Name: name, Says: says, Behaviour: builtin.Behaviour{JWT: edit}}
	}
	request := func(row, name, says string, edit func(*workload.JWTSVIDRequest)) Breakage {
		return Breakage{Row: row, Name: name, Says: says, Behaviour: builtin.Behaviour{Refuse: func(_ string, r any) error {
			if r, ok := r.(*workload.JWTSVIDRequest); ok {
				edit(r)
			}
			return nil
		}}}
	}
	forged := func(r *workload.JWTSVIDRequest, id string, m *workload.JWTSVIDResponse) {
		if r.GetSpiffeId() == id {
			m.Svids = []*workload.JWTSVID{{SpiffeId: id, Svid: "any"}}
		}
	}
	return []Breakage{
		request("WLAPI-22", "the first audience alone", "billing", func(r *workload.JWTSVIDRequest) {
			if len(r.Audience) > 0 {
				r.Audience = r.Audience[:1]
			}
		}),
		request("WLAPI-22", "an audience more", "everybody", func(r *workload.JWTSVIDRequest) { r.Audience = append(r.Audience, "everybody") }),
		tokens("WLAPI-22", "no token and no error", "no SVID and no error", func(r *workload.JWTSVIDRequest, m *workload.JWTSVIDResponse) {
			if slices.Contains(r.GetAudience(), "reports") {
				m.Svids = slices.Clip(m.Svids[:0])
			}
		}),
		tokens("WLAPI-23", "the default identity alone", "without spiffe_id", func(r *workload.JWTSVIDRequest, m *workload.JWTSVIDResponse) {
			m.Svids = m.Svids[:min(1, len(m.Svids))]
		}),
		request("WLAPI-23", "all identities always", "alone, it gives", func(r *workload.JWTSVIDRequest) { r.SpiffeId = "" }),
		tokens("WLAPI-23", "a token of another trust domain", "elsewhere.example/reports\" gives OK", func(r *workload.JWTSVIDRequest, m *workload.JWTSVIDResponse) {
			forged(r, "spiffe://elsewhere.example/reports", m)
		}),
		tokens("WLAPI-23", "a token of another workload", "nobody-has-this-identity\" gives OK", func(r *workload.JWTSVIDRequest, m *workload.JWTSVIDResponse) {
			forged(r, home+"/nobody-has-this-identity", m)
		}),
		request("WLAPI-23", "nonsense is denied", "gives PermissionDenied, not InvalidArgument", func(r *workload.JWTSVIDRequest) {
			if r.GetSpiffeId() == "nonsense" {
				r.SpiffeId = home + "/nobody"
			}
		}),
	}
}
