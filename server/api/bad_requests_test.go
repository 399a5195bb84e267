package api_test

import (
	"encoding/base64"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/authsec-ai/icp/internal/wire"
	"github.com/authsec-ai/icp/server/store"
)

const goldenFile = "testdata/bad_requests.golden"

// badRequest is one request that must change nothing.
type badRequest struct {
	name    string
	from    *client
	method  string
	path    string
	body    string
	headers []string
}

// TestBadRequests sends what callers get wrong, or try, and compares each
// status and message with the golden file. Set UPDATE_GOLDEN=1 to write it.
func TestBadRequests(t *testing.T) {
	w := newWorld(t)
	cases := append(badEntries(w.newTenant("acme")), badCallers(w, w.newTenant("globex"), w.newTenant("initech"))...)
	before := w.dump()
	var got strings.Builder
	for _, c := range cases {
		a := c.from.do(c.method, c.path, c.body, c.headers...)
		if a.status < 400 {
			t.Errorf("%s: status %d: %s", c.name, a.status, a.body)
		}
		if a.header.Get("Content-Type") != "application/problem+json" || a.header.Get("X-Request-Id") == "" {
			t.Errorf("%s: no problem document with a request id: %v", c.name, a.header)
		}
		path, _, _ := strings.Cut(c.path, "?")
		fmt.Fprintf(&got, "%s: %s %s\n  %d %s\n", c.name, c.method, path, a.status, a.detail())
	}
	if len(cases) < 40 {
		t.Errorf("only %d cases", len(cases))
	}
	if after := w.dump(); after != before {
		t.Errorf("the store changed:\nbefore\n%s\nafter\n%s", before, after)
	}
	w.stop()
	for _, c := range cases { // T-45
		if c.from.token != "" && strings.Contains(w.log.String(), c.from.token) {
			t.Errorf("%s: the log holds the token", c.name)
		}
	}
	compareGolden(t, madeIDs().ReplaceAllString(got.String(), "<id>"))
}

// madeIDs finds what differs from run to run.
func madeIDs() *regexp.Regexp { return regexp.MustCompile(`[0-9a-f]{32}`) }

func compareGolden(t *testing.T, got string) {
	t.Helper()
	if os.Getenv("UPDATE_GOLDEN") != "" {
		check(t, os.WriteFile(goldenFile, []byte(got), 0o644))
	}
	want := string(must(os.ReadFile(goldenFile))(t))
	gotLines, wantLines := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range max(len(gotLines), len(wantLines)) {
		g, x := lineAt(gotLines, i), lineAt(wantLines, i)
		if g != x {
			t.Errorf("%s:%d: got\n%s\nwant\n%s", goldenFile, i+1, g, x)
		}
	}
}

func lineAt(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return "(nothing)"
}

// badEntries are entries, policies and the like that an administrator writes wrongly.
func badEntries(a *tenant) []badRequest {
	good := func(replace ...string) string {
		doc := `{"spiffe_id": "spiffe://acme.example/web", "parent_id": "spiffe://acme.example/agent/n1", "selectors": ["unix:uid:1000"]}`
		return strings.NewReplacer(replace...).Replace(doc)
	}
	with := func(more string) string { return good(`["unix:uid:1000"]`, `["unix:uid:1000"], `+more) }
	id := func(id string) string { return good("spiffe://acme.example/web", id) }
	selectors := func(list string) string { return good(`["unix:uid:1000"]`, list) }
	twin := a.entry("n1", "/twin", nil)
	own := "/api/v1/workloads/" + twin.ID
	post := func(name, body string, headers ...string) badRequest {
		return badRequest{name, a.admin, "POST", "/api/v1/workloads", body, headers}
	}
	policy := func(name, body string) badRequest {
		return badRequest{name, a.admin, "PUT", "/api/v1/policies/p1", body, nil}
	}
	return []badRequest{
		post("T-10 ID of another trust domain", id("spiffe://globex.example/web")),
		post("T-10 ID below a look-alike domain", id("spiffe://acme.example.evil.example/web")),
		post("T-10 ID below a sub-domain", id("spiffe://sub.acme.example/web")),
		post("T-10 ID in upper case", id("spiffe://ACME.example/web")),
		post("T-11 ID of an agent", id("spiffe://acme.example/agent/n2")),
		post("T-11 ID of an agent in other capitals", id("spiffe://acme.example/Agent/n2")),
		post("T-12 ID with dots", id("spiffe://acme.example/a/../web")),
		post("T-12 ID with an escape", id("spiffe://acme.example/a%2fb")),
		post("ID with an empty segment", id("spiffe://acme.example/a//b")),
		post("ID with a slash at the end", id("spiffe://acme.example/web/")),
		post("ID with a port", id("spiffe://acme.example:443/web")),
		post("ID with a query", id("spiffe://acme.example/web?x=1")),
		post("ID of another scheme", id("https://acme.example/web")),
		post("ID without a path", id("spiffe://acme.example")),
		post("ID too long", id("spiffe://acme.example/"+strings.Repeat("a", 2100))),
		post("ID missing", `{"parent_id": "spiffe://acme.example/agent/n1", "selectors": ["unix:uid:1000"]}`),
		post("ID that is a number", good(`"spiffe://acme.example/web"`, "7")),
		post("parent missing", `{"spiffe_id": "spiffe://acme.example/web", "selectors": ["unix:uid:1000"]}`),
		post("parent that is no agent", good("/agent/n1", "/web")),
		post("parent of another tenant", good("spiffe://acme.example/agent/n1", "spiffe://globex.example/agent/n1")),
		post("T-30 no selectors", selectors("[]")),
		post("T-30 selectors null", selectors("null")),
		post("selector without type", selectors(`["uid"]`)),
		post("selector without value", selectors(`["unix:uid:"]`)),
		post("selector with an unknown spelling", selectors(`[{"type": "unix", "value": "uid:1", "extra": "x"}]`)),
		post("T-29 selector with a line break", selectors(`["k8s:pod-label:app:a\nb"]`)),
		post("T-29 selector of a type in capitals", selectors(`["UNIX:uid:1000"]`)),
		post("selectors as text", selectors(`"unix:uid:1000"`)),
		post("selectors as numbers", selectors(`{"unix:uid": 1000}`)),
		post("selector given twice in a map", selectors(`{"unix:uid": "1", "unix:uid": "2"}`)),
		post("T-09 ttl negative", with(`"ttl": -1`)),
		post("T-09 ttl too short", with(`"ttl": "4s"`)),
		post("CA-7 ttl over the limit", with(`"ttl": 7200`)),
		post("T-09 ttl beyond all bounds", with(`"ttl": 1000000000000000000`)),
		post("ttl that is no duration", with(`"ttl": "soon"`)),
		post("ttl with a fraction of a second", with(`"ttl": "10.5s"`)),
		post("jwt_ttl over the limit", with(`"jwt_ttl": "2h"`)),
		post("renew_at out of range", with(`"renew_at": 0.99`)),
		post("profile not known", with(`"profile": "forever"`)),
		post("WLAPI-16 hint too long", with(`"hint": "`+strings.Repeat("h", 1025)+`"`)),
		post("hint with a control character", with(`"hint": "a\u0007b"`)),
		post("dns name with a wildcard", with(`"dns_names": ["*.acme.example"]`)),
		post("dns name given twice", with(`"dns_names": ["a.example", "a.example"]`)),
		post("gateway service with a slash", with(`"gateway": ["a/b"]`)),
		post("unknown field", with(`"admin": true`)),
		post("known field in other capitals", with(`"TTL": 60`)),
		post("system field", with(`"revision": 7`)),
		post("duplicate field", with(`"ttl": 60, "ttl": 61`)),
		post("duplicate field, one escaped", with(`"ttl": 60, "tt\u006c": 61`)),
		post("half of a surrogate pair", with(`"hint": "\ud800"`)),
		post("not UTF-8", with("\"hint\": \"\xff\"")),
		post("text after the document", good()+" {}"),
		post("not an object", "["+good()+"]"),
		post("not JSON", "spiffe_id=spiffe://acme.example/web"),
		post("cut off", good()[:40]),
		post("empty", ""),
		post("T-46 nested too deep", with(`"hint": `+strings.Repeat("[", 5000)+strings.Repeat("]", 5000))),
		post("T-46 10 MiB", with(`"hint": "`+strings.Repeat("h", 10<<20)+`"`)),
		post("T-46 compressed", good(), "Content-Encoding: gzip"),
		post("content type XML", good(), "Content-Type: application/xml"),
		post("content type of a form upload", good(), "Content-Type: multipart/form-data; boundary=x"),
		post("content type in another charset", good(), "Content-Type: application/json; charset=utf-16"),
		post("duplicate entry", doc(map[string]any{"spiffe_id": twin.SPIFFEID, "parent_id": twin.ParentID, "selectors": twin.Selectors})),
		{"curl's content type where it is not expected", a.admin, "PUT", own, good(), []string{"Content-Type: application/x-www-form-urlencoded"}},
		{"update from an old revision", a.admin, "PUT", own, good(), []string{`If-Match: "999"`}},
		{"update with a broken revision", a.admin, "PUT", own, good(), []string{"If-Match: W/abc"}},
		{"patch with an unknown field", a.admin, "PATCH", own, `{"selector": ["unix:uid:1"]}`, nil},
		{"patch to a reserved ID", a.admin, "PATCH", own, `{"spiffe_id": "spiffe://acme.example/agent/n1"}`, nil},
		{"no such entry", a.admin, "GET", "/api/v1/workloads/absent", "", nil},
		{"T-12 entry id with dots", a.admin, "GET", "/api/v1/workloads/..%2f..%2ftenants", "", nil},
		{"T-52 broken page token", a.admin, "GET", "/api/v1/workloads?page=' OR 1=1", "", nil},
		{"list limit out of range", a.admin, "GET", "/api/v1/workloads?limit=1001", "", nil},
		{"filter with a typing error", a.admin, "GET", "/api/v1/workloads?spifeid=x", "", nil},
		{"filter given twice", a.admin, "GET", "/api/v1/workloads?limit=1&limit=2", "", nil},
		policy("policy without service", `{"effect": "allow", "subjects": ["spiffe://acme.example/web"], "methods": ["GET"], "paths": ["/"]}`),
		policy("T-20 policy with an unknown field", `{"effect": "deny", "subject": ["spiffe://acme.example/web"]}`),
		policy("policy under another name", `{"name": "p2", "effect": "allow"}`),
		policy("policy with a glob", `{"effect": "allow", "subjects": ["spiffe://acme.example/*/web"], "service": "llm", "methods": ["GET"], "paths": ["/"]}`),
		{"join token for a node name with a slash", a.admin, "POST", "/api/v1/join-tokens", `{"node_name": "a/b"}`, nil},
		{"join token for a year", a.admin, "POST", "/api/v1/join-tokens", `{"ttl": "8760h"}`, nil},
		{"API token of an unknown role", a.admin, "POST", "/api/v1/tokens", `{"name": "x", "role": "root"}`, nil},
		{"SV-6 API token above one's own role", a.admin, "POST", "/api/v1/tokens", `{"name": "x", "role": "platform-admin"}`, nil},
		{"tenant settings over the ceiling", a.admin, "PATCH", "/api/v1/tenants/acme", `{"settings": {"max_ttl": "48h"}}`, nil},
		{"tenant id with a slash", a.w.as(a.w.platform), "POST", "/api/v1/tenants", `{"id": "a/b"}`, nil},
		{"tenant with another's trust domain", a.w.as(a.w.platform), "POST", "/api/v1/tenants", `{"id": "mallory", "trust_domain": "acme.example"}`, nil},
		{"tenant that exists", a.w.as(a.w.platform), "POST", "/api/v1/tenants", `{"id": "acme", "trust_domain": "acme2.example"}`, nil},
	}
}

// badCallers are requests by the wrong caller, or with the wrong proof.
func badCallers(w *world, a, b *tenant) []badRequest {
	anyone := w.as("")
	mine := a.entry("n1", "/web", nil)
	agent, other := a.attest("n1"), b.attest("n1")
	csr := base64.StdEncoding.EncodeToString(newCSR(w.t, newKey(w.t)))
	attest := func(name, body string) badRequest {
		return badRequest{name, anyone, "POST", wire.PathAttest, body, nil}
	}
	byToken := func(token string) string {
		return fmt.Sprintf(`{"method": "join_token", "token": %q, "node_id": "n9", "csr": %q}`, token, csr)
	}
	used := a.joinToken(map[string]any{})
	anyone.do("POST", wire.PathAttest, byToken(used)).want(w.t, 200, nil)
	expired := a.joinToken(map[string]any{"ttl": "1s"})
	expiredAPI := expiredAPIToken(w, a)
	w.clock.Advance(2 * time.Second)
	fixed := a.joinToken(map[string]any{"node_name": "n7"})
	taken := a.joinToken(map[string]any{"node_name": "n1"})
	list := "/api/v1/workloads"
	key := newKey(w.t)
	return []badRequest{
		{"no API token", anyone, "GET", list, "", nil},
		{"API token not known", w.as("icp-api-nonsense"), "GET", list, "", nil},
		{"API token expired", w.as(expiredAPI), "GET", list, "", nil},
		{"API token as basic authentication", anyone, "GET", list, "", []string{"Authorization: Basic aWNwOmljcA=="}},
		{"two API tokens", a.admin, "GET", list, "", []string{"+Authorization: Bearer icp-api-other"}},
		{"join token as API token", w.as(fixed), "GET", list, "", nil},
		{"SV-6 viewer writes", a.as(store.Viewer), "POST", list, "{}", nil},
		{"SV-6 auditor reads entries", a.as(store.Auditor), "GET", list, "", nil},
		{"SV-7 entry of another tenant", b.admin, "GET", list + "/" + mine.ID, "", nil},
		{"SV-7 other tenant named in the query", b.admin, "GET", list + "?tenant_id=globex", "", nil},
		{"SV-7 other tenant named in the body", b.admin, "POST", list, `{"tenant_id": "globex"}`, nil},
		{"tenants by a tenant's administrator", a.admin, "GET", "/api/v1/tenants", "", nil},
		{"platform administrator names no tenant", w.as(w.platform), "GET", list, "", nil},
		{"platform administrator names two tenants", w.as(w.platform), "POST", list + "?tenant_id=acme", `{"tenant_id": "globex"}`, nil},
		{"platform administrator names an absent tenant", w.as(w.platform), "GET", list + "?tenant_id=absent", "", nil},
		attest("C8 attest with a token alone", `{"token": "`+used+`"}`),
		attest("NA-3 join token used before", byToken(used)),
		attest("T-02 join token expired", byToken(expired)),
		attest("join token not known", byToken("icp-join-guess")),
		attest("join token of another node", byToken(fixed)),
		attest("join token for a node that lives under another key", strings.Replace(byToken(taken), "n9", "n1", 1)),
		attest("attest by an unknown method", strings.Replace(byToken(used), "join_token", "magic", 1)),
		attest("CSR that is not base64", `{"method": "join_token", "csr": "%%"}`),
		attest("CSR that is no CSR", `{"method": "join_token", "csr": "AAAA"}`),
		attest("T-08 CSR with a broken signature", strings.Replace(byToken(fixed), csr, brokenCSR(w.t), 1)),
		attest("attest with a duplicate field", strings.Replace(byToken(used), "{", `{"method": "x", `, 1)),
		{"SV-11 sign without a certificate", anyone, "POST", wire.PathSign, `{"items": []}`, nil},
		{"SV-11 forged certificate header", anyone, "POST", wire.PathSign, `{"items": []}`, []string{
			"X-Forwarded-Client-Cert: Hash=0;Cert=\"x\";URI=" + agent.id, "X-Client-Cert: MIIB"}},
		{"certificate of our own making", w.withCert(selfMade(w.t, agent.id, key), key), "POST", wire.PathSign, `{"items": []}`, nil},
		{"API token on an agent's route", a.admin, "POST", wire.PathSign, `{"items": []}`, nil},
		{"agent on an administrator's route", agent.client, "GET", list, "", nil},
		{"agent on a gateway's route", agent.client, "GET", wire.PathGateway, "", nil},
		{"sign nothing", agent.client, "POST", wire.PathSign, `{"items": []}`, nil},
		{"sign too much", agent.client, "POST", wire.PathSign, `{"items": [` + strings.Repeat("{},", 500) + `{}]}`, nil},
		{"renew under another key", agent.client, "POST", wire.PathRenew, `{"csr": "` + csr + `"}`, nil},
		{"renew without CSR", agent.client, "POST", wire.PathRenew, `{}`, nil},
		{"SV-10 workload without CSR", agent.client, "POST", "/api/v1/workload/attest", `{"selectors": ["unix:uid:1000"]}`, nil},
		{"SV-15 workload that is not registered", agent.client, "POST", "/api/v1/workload/attest", `{"selectors": ["unix:uid:7"], "csr": "` + csr + `"}`, nil},
		{"SV-11 workload of another agent", other.client, "POST", "/api/v1/workload/attest", `{"agent_id": "` + agent.id + `", "selectors": ["unix:uid:1000"], "csr": "` + csr + `"}`, nil},
		{"no such route", anyone, "GET", "/api/v2/workloads", "", nil},
		{"FED-13 POST to the bundle endpoint", anyone, "POST", "/bundles/acme.example", "{}", nil},
		{"bundle of an absent trust domain", anyone, "GET", "/bundles/absent.example", "", nil},
		{"bundle of an absent tenant", anyone, "GET", "/bundle/absent", "", nil},
	}
}

func expiredAPIToken(w *world, a *tenant) string {
	w.t.Helper()
	var got struct{ Token string }
	a.admin.do("POST", "/api/v1/tokens", `{"name": "short", "role": "viewer", "ttl": "1s"}`).want(w.t, 201, &got)
	return got.Token
}

func brokenCSR(t testing.TB) string {
	t.Helper()
	der := newCSR(t, newKey(t))
	der[len(der)-1] ^= 1
	return base64.StdEncoding.EncodeToString(der)
}
