package cli_test

import (
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/audit"
	"github.com/authsec-ai/icp/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const web = "spiffe://acme.example/web"

func TestEntries(t *testing.T) {
	w := newWorld(t)
	if r := w.icp("entry", "list").ok(); r.stdout != "" || r.stderr != "no entries\n" {
		t.Errorf("an empty list prints %q and notes %q", r.stdout, r.stderr)
	}
	w.icp("entry", "create", "--spiffe-id", web, "--selector", "unix:uid:1000", "--selector", "unix:gid=7", "--ttl", "30m", "--gateway", "llm").
		ok().says("spiffe_id   "+web, "parent_id   "+agentID, "selectors   unix:gid:7,unix:uid:1000", "ttl         30m0s", "gateway     llm")

	var list []identity.Entry
	w.icp("entry", "list", "--output", "json", "--selector", "unix:uid=1000").ok().decode(&list)
	if len(list) != 1 || list[0].SPIFFEID.String() != web {
		t.Fatalf("listed %+v", list)
	}
	w.icp("entry", "list", "--search", "nothing-like-this").ok()
	w.icp("entry", "show", list[0].ID).ok().says(web)

	w.icp("entry", "update", web, "--ttl", "10m", "--hint", "main").ok().says("ttl         10m0s", "hint        main", "unix:uid:1000")
	w.icp("entry", "update", web).fails(2, "nothing to change")

	w.icp("entry", "create", "--spiffe-id", web, "--selector", "unix:uid:1000", "--selector", "unix:gid:7").fails(5, list[0].ID)
	w.icp("entry", "create", "--spiffe-id", web, "--selector", "unix:uid:1").ok()
	w.icp("entry", "show", web).fails(5, "2 entries give "+web)

	w.icp("entry", "delete", list[0].ID).ok()
	w.icp("entry", "delete", web).ok()
	w.icp("entry", "delete", web).fails(3, "no entry gives "+web)
	w.icp("entry", "delete", list[0].ID).fails(3, "")
}

func TestEntryMistakes(t *testing.T) {
	w := newWorld(t)
	good := []string{"entry", "create", "--spiffe-id", web, "--selector", "unix:uid:1000"}
	for _, c := range []struct {
		code int
		line string
		args []string
	}{
		{2, "--spiffe-id and at least one --selector are needed", good[:4]},
		{1, "is not a SPIFFE ID", []string{"entry", "create", "--spiffe-id", "spiffe://ACME/x", "--selector", "unix:uid:1"}},
		{1, "has no type", append(good[:4:4], "--selector", "uid")},
		{1, "is outside the tenant's trust domain", []string{"entry", "create", "--spiffe-id", "spiffe://other.example/x", "--selector", "unix:uid:1"}},
		{1, "is over the tenant's limit", append(good[:6:6], "--ttl", "2h")},
		{2, "invalid argument", append(good[:6:6], "--ttl", "soon")},
		{2, "unknown flag: --colour", append(good[:6:6], "--colour")},
		{2, "it is used as: icp entry create [flags]", append(good[:6:6], "extra")},
		{2, `there is no command "make"; try 'icp entry --help'`, []string{"entry", "make"}},
		{2, `there is no command "entries"; try 'icp --help'`, []string{"entries"}},
		{2, "choose table or json", []string{"entry", "list", "--output", "xml"}},
	} {
		w.icp(c.args...).fails(c.code, c.line)
	}
	w.icp(good...).ok() // the twin
}

func TestAgentsAndJoinTokens(t *testing.T) {
	w := newWorld(t)
	made := w.icp("token", "create", "--node-name", "n1", "--ttl", "10m").ok()
	token := strings.TrimSpace(made.stdout)
	if strings.ContainsAny(token, " \n") || token == "" || strings.Contains(made.stderr, token) {
		t.Errorf("the token is not alone on stdout: %q, %q", made.stdout, made.stderr)
	}
	w.icp("token", "list").ok().says("n1")
	if got := w.attest(token); got.AgentID != agentID {
		t.Fatalf("attested as %s", got.AgentID)
	}
	w.icp("agent", "list").ok().says(agentID, "join_token", "ok")
	w.icp("agent", "show", "n1").ok().says("status", "key_sha256")
	w.icp("agent", "show", agentID).ok()
	w.icp("agent", "ban", agentID).ok()
	w.icp("agent", "list").ok().says("banned")
	w.icp("agent", "delete", "n1").ok()
	w.icp("agent", "show", "n1").fails(3, "")

	var tokens []struct{ ID, Token string }
	w.icp("token", "create").ok()
	w.icp("token", "list", "-o", "json").ok().decode(&tokens)
	if len(tokens) != 1 || tokens[0].Token != "" {
		t.Fatalf("listed %+v", tokens)
	}
	w.icp("token", "delete", tokens[0].ID).ok()
	w.icp("token", "delete", tokens[0].ID).fails(3, "")
}

func TestAPITokensAndRoles(t *testing.T) {
	w := newWorld(t)
	viewer := w.write("viewer.token", w.icp("api-token", "create", "--name", "ci", "--role", "viewer").ok().stdout)
	w.icp("api-token", "list").ok().says("ci", "viewer")
	w.icp("--token-file", viewer, "entry", "list").ok() // a flag goes before --dir
	w.icp("--token-file", viewer, "entry", "create", "--spiffe-id", web, "--selector", "unix:uid:1").fails(4, "role viewer may not")
	w.icp("--token-file", w.write("wrong.token", "icp-api-wrong"), "entry", "list").fails(4, "API token is not known")
	w.icp("--token-file", w.file("absent"), "entry", "list").fails(1, "absent: no such file or directory")
	w.icp("api-token", "create", "--name", "x", "--role", "king").fails(1, `role "king" is not known`)
	w.icp("tenant", "list").fails(4, "role tenant-admin may not")
	w.icp("audit", "list", "--limit", "3").ok().says("denied", "tenants", "api_token.create")
}

func TestPlatformAdministrator(t *testing.T) {
	w := newWorld(t)
	if _, err := w.control.AdminToken(t.Context(), w.file("root.token"), "", "platform-admin"); err != nil {
		t.Fatal(err)
	}
	root := []string{"--token-file", w.file("root.token")}
	w.icp(append(root, "tenant", "create", "other", "--trust-domain", "other.example")...).ok().says("other.example")
	w.icp(append(root, "tenant", "list")...).ok().says("acme", "other")
	w.icp(append(root, "entry", "list")...).fails(1, "name the tenant in tenant_id")
	w.icp(append(root, "--tenant", "other", "entry", "list")...).ok()
	w.icp(append(root, "--tenant", "other", "bundle", "show", "other.example")...).ok().says("x509", "jwt")
}

const salesBot = `name: sales-bot-llm
effect: allow
subjects: [spiffe://acme.example/ai-agents/sales-bot]
service: llm
methods: [POST]
paths: [/v1/chat/completions]
models: [customer-service-llm, 2024-10-22]
limits: {requests_per_minute: 600, max_svid_lifetime: 10m}
`

func TestPolicies(t *testing.T) {
	w := newWorld(t)
	w.icp("policy", "list").ok()
	file := w.write("sales-bot.yaml", salesBot)
	w.icp("policy", "apply", "-f", file).ok().says("create policy sales-bot-llm", "1 change (0 unchanged)")
	w.icp("policy", "apply", "-f", file).ok().says("0 changes (1 unchanged)")
	w.icp("policy", "list").ok().says("sales-bot-llm", "/v1/chat/completions", "customer-service-llm,2024-10-22")

	shown := w.icp("policy", "show", "sales-bot-llm").ok().says(`- "2024-10-22"`)
	w.icp("policy", "apply", "-f", w.write("shown.yaml", shown.stdout)).ok().says("0 changes (1 unchanged)")

	ask := func(model string, more ...string) result {
		return w.icp(append([]string{"policy", "test", "--subject", "spiffe://acme.example/ai-agents/sales-bot", "--service", "llm",
			"--method", "POST", "--path", "/v1/chat/completions", "--svid-lifetime", "10m", "--model", model}, more...)...)
	}
	ask("customer-service-llm").ok().says("allowed", "sales-bot-llm", "600")
	ask("financial-analysis-llm").exits(4).says("denied", policy.ReasonModel)
	ask("customer-service-llm", "--svid-lifetime", "1h").exits(4).says(policy.ReasonLifetime)
	ask("financial-analysis-llm", "-f", w.write("other.yaml", strings.ReplaceAll(salesBot, "customer-service", "financial-analysis"))).ok().says("allowed")

	w.icp("policy", "delete", "sales-bot-llm").ok()
	w.icp("policy", "delete", "sales-bot-llm").fails(3, "")
	ask("customer-service-llm").exits(4).says(policy.ReasonDefault)

	for text, want := range map[string]string{
		strings.Replace(salesBot, "[POST]", "[post]", 1):     "methods are case-exact; write POST",
		strings.Replace(salesBot, "effect:", "efect:", 1):    `unknown field "efect"`,
		salesBot + "effect: deny\n":                          `key "effect" is given twice`,
		"revision: 1\n":                                      "it holds neither a policy nor the key policies",
		strings.Replace(salesBot, "service: llm\n", "", 1):   "service: is missing",
		strings.Replace(salesBot, "effect: allow", "- x", 1): "not valid YAML",
	} {
		w.icp("policy", "apply", "-f", w.write("bad.yaml", text)).fails(1, want)
	}
}

const workloads = `entries:
  - spiffe_id: spiffe://acme.example/web
    selectors: {"unix:uid": "1000"}
    ttl: 30m
  - spiffe_id: spiffe://acme.example/db
    parent_id: spiffe://acme.example/agent/n2
    selectors: ["unix:uid:1001", {"type": "unix", "value": "gid:5"}]
policies:
  - name: web-reads-db
    effect: allow
    subjects: [spiffe://acme.example/web]
    service: db
    methods: [GET]
    paths: [/**]
`

// SV-4: a second apply changes nothing, and an export applies to nothing.
func TestApply(t *testing.T) {
	w := newWorld(t)
	file := w.write("workloads.yaml", workloads)
	w.icp("diff", "-f", file).exits(10).says("create entry spiffe://acme.example/web", "3 changes to make (0 unchanged)")
	w.icp("entry", "list").ok()

	t.Run("SV-4", func(t *testing.T) {
		w.icp("apply", "-f", file).ok().says("create entry spiffe://acme.example/web", "create policy web-reads-db", "3 changes (0 unchanged)")
		if r := w.icp("apply", "-f", file).ok(); r.stdout != "0 changes (3 unchanged)\n" {
			t.Errorf("the second apply prints %q", r.stdout)
		}
		w.icp("diff", "-f", file, "--prune").ok()
	})
	t.Run("SV-4/export", func(t *testing.T) {
		for _, form := range []string{"table", "json"} {
			exported := w.write("export", w.icp("export", "-o", form).ok().stdout)
			if r := w.icp("apply", "--prune", "-f", exported).ok(); r.stdout != "0 changes (3 unchanged)\n" {
				t.Errorf("applying the %s export prints %q", form, r.stdout)
			}
		}
	})
	t.Run("SV-4/change", func(t *testing.T) { // of a field, of the selectors, of a policy
		changed := strings.NewReplacer("ttl: 30m", "ttl: 20m", "gid:5", "gid:6", "[GET]", "[GET, PUT]").Replace(workloads)
		w.icp("apply", "-f", w.write("changed.yaml", changed)).ok().
			says("update entry spiffe://acme.example/web", "update entry spiffe://acme.example/db", "update policy web-reads-db", "3 changes (0 unchanged)")
		w.icp("entry", "show", "spiffe://acme.example/db").ok().says("unix:gid:6,unix:uid:1001")
		w.icp("apply", "-f", w.file("changed.yaml")).ok().says("0 changes (3 unchanged)")
	})
	t.Run("SV-4/prune", func(t *testing.T) {
		none := w.write("none.yaml", "entries: []\n")
		w.icp("apply", "-f", none).ok().says("0 changes (0 unchanged)")
		w.icp("apply", "-f", none, "--prune", "--dry-run").ok().says("2 changes to make")
		w.icp("apply", "-f", none, "--prune").ok().says("delete entry spiffe://acme.example/web", "2 changes (0 unchanged)")
		w.icp("policy", "show", "web-reads-db").ok() // the file says nothing about policies
	})
	t.Run("standard input", func(t *testing.T) {
		icp(t, nil, workloads, "--dir", w.dir, "apply", "-f", "-").ok().says("3 changes (0 unchanged)", "update policy")
	})
}

func TestApplyRefuses(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct{ name, text, want string }{
		{"unknown key", strings.Replace(workloads, "ttl:", "ttl_seconds:", 1), `unknown field "ttl_seconds"`},
		{"unknown list", "entry: []\n", `unknown field "entry"`},
		{"nothing", "{}", "neither the key entries nor the key policies"},
		{"twice", strings.Replace(workloads, "policies:", "  - {spiffe_id: 'spiffe://acme.example/web', selectors: ['unix:uid:1000']}\npolicies:", 1), "is there twice"},
		{"bad policy", strings.Replace(workloads, "[GET]", "[]", 1), "methods: is empty"},
		{"no selectors", strings.Replace(workloads, `    selectors: {"unix:uid": "1000"}`+"\n", "", 1), "spiffe_id and selectors are needed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.icp("apply", "-f", w.write("bad.yaml", c.text)).fails(1, c.want)
		})
	}
	w.icp("apply").fails(2, "name a file with -f")
	w.icp("apply", "-f", w.file("absent")).fails(1, "no such file")
	if r := w.icp("entry", "list").ok(); r.stdout != "" {
		t.Errorf("a refused file was applied in part: %s", r.stdout)
	}
	t.Run("halfway", func(t *testing.T) { // what only the server can refuse
		r := w.icp("apply", "-f", w.write("half.yaml", strings.Replace(workloads, "spiffe_id: spiffe://acme.example/db", "spiffe_id: spiffe://other.example/db", 1)))
		r.exits(1).says("create entry spiffe://acme.example/web", "1 change (0 unchanged)")
		if !strings.Contains(r.stderr, "create entry spiffe://other.example/db") || !strings.Contains(r.stderr, "(1 of 3 changes were made)") {
			t.Errorf("stderr: %s", r.stderr)
		}
	})
}

func TestBundle(t *testing.T) {
	w := newWorld(t)
	var bundle struct{ Keys []map[string]any }
	w.icp("bundle", "export").ok().decode(&bundle)
	if len(bundle.Keys) != 2 {
		t.Errorf("the bundle has %d keys", len(bundle.Keys))
	}
	w.icp("bundle", "export", "acme.example", "--format", "pem").ok().says("-----BEGIN CERTIFICATE-----")
	w.icp("bundle", "show").ok().says("x509", "sha256:", "jwt")
	w.icp("bundle", "show", "other.example").fails(3, "")
	w.icp("bundle", "show", "spiffe://acme.example").fails(1, "is not a trust domain name")
	w.icp("bundle", "export", "--format", "der").fails(2, "--format is spiffe or pem")
	// Anybody may read a bundle: no token is needed.
	icp(t, map[string]string{"ICP_URL": w.url, "ICP_CA_FILE": w.control.CAFile}, "", "bundle", "show", "acme.example").ok()
}

func TestAudit(t *testing.T) {
	w := newWorld(t)
	w.icp("entry", "create", "--spiffe-id", web, "--selector", "unix:uid:1000").ok()
	w.icp("entry", "delete", web).ok()
	w.icp("audit", "list").ok().says("entry.create", "entry.delete", "allowed", "token:")
	var events, older []audit.Event
	w.icp("audit", "list", "--limit", "1", "-o", "json").ok().decode(&events)
	if len(events) != 1 || events[0].Action != "entry.delete" {
		t.Fatalf("the newest event is %+v", events)
	}
	w.icp("audit", "list", "--before", "1", "-o", "json").ok().decode(&older)
	if len(older) != 0 {
		t.Errorf("before the first event there are %+v", older)
	}
	w.icp("audit", "list", "--limit", "0").fails(2, "--limit is at least 1")
}

func TestSettings(t *testing.T) {
	w := newWorld(t)
	env := map[string]string{"ICP_URL": w.url, "ICP_TOKEN_FILE": w.file("admin.token"), "ICP_CA_FILE": w.control.CAFile}
	icp(t, env, "", "entry", "list").ok()
	for _, c := range []struct {
		without string
		code    int
		line    string
	}{
		{"ICP_URL", 2, "no server is named: give --url, --dir or ICP_URL"},
		{"ICP_TOKEN_FILE", 2, "no API token is named"},
		{"ICP_CA_FILE", 6, "name the certificate authority of the server with --ca-file"},
	} {
		t.Run("without "+c.without, func(t *testing.T) {
			less := map[string]string{}
			for k, v := range env {
				if k != c.without {
					less[k] = v
				}
			}
			icp(t, less, "", "entry", "list").fails(c.code, c.line)
		})
	}
	icp(t, env, "", "--url", "https://127.0.0.1:1", "entry", "list").fails(6, "no answer from https://127.0.0.1:1")
	icp(t, env, "", "--url", "http://127.0.0.1:1", "entry", "list").fails(1, "write it as https://host:port")
	icp(t, env, "", "--dir", t.TempDir(), "entry", "list").fails(6, "no 'icp dev' is ready on")
	icp(t, env, "", "--ca-file", w.file("admin.token"), "entry", "list").fails(1, "holds no PEM certificate")
}

// TestHelp: every command says what it is for, shows an example, and belongs to
// the list below.
func TestHelp(t *testing.T) {
	got := icp(t, nil, "", "--help").ok().stdout
	want, err := os.ReadFile("testdata/help.txt")
	check(t, err)
	if got != string(want) {
		t.Errorf("help has changed; if that is meant, save this as testdata/help.txt:\n%s", got)
	}
	icp(t, nil, "", "version").ok().says("go1.")
	icp(t, nil, "", "completion", "bash").ok().says("__start_icp")
	for _, args := range []string{
		"entry create", "entry list", "entry show", "entry update", "agent list", "agent ban", "token create", "api-token create",
		"policy apply", "policy test", "bundle export", "audit list", "apply", "diff", "export", "api fetch x509", "api fetch jwt", "api validate jwt", "api watch",
	} {
		icp(t, nil, "", append(strings.Fields(args), "--help")...).ok().says("Examples:", "icp "+args)
	}
}
