package proxy

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/authsec-ai/icp/policy"
)

func TestModelBodies(t *testing.T) {
	r := start(t)
	client := r.client(false, r.ca.issue(t, "/sales-bot"))
	const ok, other = `"customer-service-llm"`, `"financial-analysis-llm"`
	text := func(kind string) http.Header { return http.Header{"Content-Type": {kind}} }
	for _, row := range []struct {
		id, target, body string
		header           http.Header
		status           int
		reason           string
	}{
		{"P-50", "", `{"model":` + ok + `,"model":` + other + `}`, nil, 400, "repeated-json-key"},
		{"P-50-escaped", "", `{"model":` + ok + `,"\u006dodel":` + other + `}`, nil, 400, "repeated-json-key"},
		{"P-50-other-key", "", `{"model":` + ok + `,"stream":true,"stream":false}`, nil, 400, "repeated-json-key"},
		{"P-51", "", `{"model":` + ok + `,"Model":` + other + `}`, nil, 400, "ambiguous-model"},
		{"P-51-alone", "", `{"MODEL":` + ok + `}`, nil, 400, "ambiguous-model"},
		{"P-52-query", "?model=financial-analysis-llm", chatSales, nil, 400, "ambiguous-model"},
		{"P-52-query-case", "?Model=financial-analysis-llm", chatSales, nil, 400, "ambiguous-model"},
		{"P-53", "", `{"x":{"model":` + ok + `}}`, nil, 400, "no-model"},
		{"P-54-null", "", `{"model":null}`, nil, 400, "malformed-model"},
		{"P-54-array", "", `{"model":[` + ok + `]}`, nil, 400, "malformed-model"},
		{"P-54-number", "", `{"model":1}`, nil, 400, "malformed-model"},
		{"P-54-empty", "", `{"model":""}`, nil, 400, "malformed-model"},
		{"P-54-nul", "", `{"model":"customer-service-llm\u0000"}`, nil, 400, "malformed-model"},
		{"P-54-homoglyph", "", `{"model":"customer-service-llм"}`, nil, 403, "policy"},
		{"P-54-space", "", `{"model":"customer-service-llm "}`, nil, 403, "policy"},
		{"P-54-surrogate", "", `{"model":"customer-service-llm\ud800"}`, nil, 400, "malformed-json"},
		{"P-55-garbage", "", chatSales + "x", nil, 400, "malformed-json"},
		{"P-55-two", "", chatSales + chatSales, nil, 400, "malformed-json"},
		{"P-55-nan", "", `{"model":` + ok + `,"a":NaN}`, nil, 400, "malformed-json"},
		{"P-55-comment", "", `{/**/"model":` + ok + `}`, nil, 400, "malformed-json"},
		{"P-55-comma", "", `{"model":` + ok + `,}`, nil, 400, "malformed-json"},
		{"P-55-bom", "", "\ufeff" + chatSales, nil, 400, "malformed-json"},
		{"P-55-utf8", "", `{"model":` + ok + `,"a":"` + "\xff" + `"}`, nil, 400, "malformed-json"},
		{"P-55-control", "", `{"model":` + ok + ",\"a\":\"\n\"}", nil, 400, "malformed-json"},
		{"P-55-array", "", `[` + chatSales + `]`, nil, 400, "malformed-json"},
		{"P-56-gzip", "", chatSales, http.Header{"Content-Encoding": {"gzip"}, "Content-Type": {"application/json"}}, 415, "unsupported-media-type"},
		{"P-57-text", "", chatSales, text("text/plain"), 415, "unsupported-media-type"},
		{"P-57-multipart", "", chatSales, text("multipart/form-data; boundary=x"), 415, "unsupported-media-type"},
		{"P-57-charset", "", chatSales, text("application/json; charset=utf-16"), 415, "unsupported-media-type"},
		{"P-57-two", "", chatSales, http.Header{"Content-Type": {"application/json", "text/plain"}}, 415, "unsupported-media-type"},
		{"P-58-large", "", `{"a":"` + strings.Repeat("a", 1<<20) + `","model":` + ok + `}`, nil, 413, "body-too-large"},
		{"P-59-models", "", `{"model":` + ok + `,"models":[` + other + `]}`, nil, 400, "ambiguous-model"},
		{"P-59-fallbacks", "", `{"model":` + ok + `,"fallbacks":[` + other + `]}`, nil, 400, "ambiguous-model"},
		{"P-59-tool", "", `{"model":` + ok + `,"tools":[{"type":"function"},{"type":"image_generation","model":` + other + `}]}`, nil, 400, "ambiguous-model"},
		{"P-59-tool-escaped", "", `{"model":` + ok + `,"tools":[{"type":"advisor","\u006dodel":` + other + `}]}`, nil, 400, "ambiguous-model"},
		{"P-55-tool", "", `{"model":` + ok + `,"tools":[{"a":1},]}`, nil, 400, "malformed-json"},
		{"P-60", "", `{"model":"customer-service-llm-2024-08-06"}`, nil, 403, "policy"},
		{"P-63-depth", "", `{"model":` + ok + `,"a":` + strings.Repeat("[", 400_000) + strings.Repeat("]", 400_000) + `}`, nil, 400, "malformed-json"},
		{"P-63-keys", "", `{"model":` + ok + manyKeys(30_000) + `}`, nil, 400, "malformed-json"},
	} {
		t.Run(row.id+"/refused", func(t *testing.T) {
			r := r.as(t)
			g := r.mustDo(client, "POST", "/v1/chat/completions"+row.target, row.body, row.header)
			if g.status != row.status || g.reason() != row.reason {
				t.Errorf("%d %q, want %d %q: %.200s", g.status, g.reason(), row.status, row.reason, g.body)
			}
		})
	}
	for _, row := range []struct{ id, target, body string }{
		{"P-50", "", `{"\u006dodel":` + ok + `}`},
		{"P-51", "", `{"model":` + ok + `,"modela":` + other + `}`},
		{"P-52", "?model=customer-service-llm", chatSales},
		{"P-53", "", `{"x":{"model":` + other + `},"model":` + ok + `}`},
		{"P-54", "", `{"model":"customer\u002dservice-llm"}`},
		{"P-55", "", " \r\n\t" + `{"model":` + ok + `,"a":[1,-2.5e+3,true,false,null,"\ud83d\ude00\n",{}]}` + " \n"},
		{"P-56", "", chatSales},
		{"P-57", "", chatSales},
		{"P-58", "", `{"a":"` + strings.Repeat("a", 1<<19) + `","model":` + ok + `}`},
		{"P-59", "", `{"model":` + ok + `,"modalities":["text"]}`},
		{"P-59-tool", "", `{"model":` + ok + `,"tools":[{"type":"function","function":{"parameters":{"properties":{"model":{"type":"string"}}}}},{}]}`},
		{"P-59-no-tool", "", `{"model":` + ok + `,"tools":[]}`},
		{"P-59-null", "", `{"model":` + ok + `,"tools":null}`},
		{"P-60", "", chatSales},
		{"P-63", "", `{"model":` + ok + `,"a":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + manyKeys(100) + `}`},
	} {
		t.Run(row.id+"/twin", func(t *testing.T) {
			r := r.as(t)
			if g := r.mustDo(client, "POST", "/v1/chat/completions"+row.target, row.body, nil); g.status != 200 {
				t.Errorf("%d: %.200s", g.status, g.body)
			}
		})
	}
}

func manyKeys(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(`,"`)
		b.WriteString(strings.Repeat("k", 1+i%7))
		b.WriteString(string(rune('a' + i%26)))
		b.WriteString(strings.Repeat("z", i/182%10))
		b.WriteString(string(rune(0x4e00+i%20000)) + string(rune(0x4e00+i/20000)))
		b.WriteString(`":1`)
	}
	return b.String()
}

// The model is told in every API that is known, and its bytes pass unchanged.
func TestLLMEndpoints(t *testing.T) {
	r := start(t, withUpstream(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		_, _ = w.Write([]byte("reached"))
	})), withConfig(func(c *Config) {
		llmRoute := c.Routes[0]
		for _, prefix := range []string{"/openai", "/model", "/v1beta", "/vendor"} {
			route := llmRoute
			route.PathPrefix = prefix
			c.Routes = append(c.Routes, route)
		}
	}))
	list := samplePolicies()
	list[0].Paths = []string{"/**"}
	r.setPolicies(list...)
	client := r.client(true, r.ca.issue(t, "/sales-bot"))
	const mine, other = "customer-service-llm", "financial-analysis-llm"
	for _, row := range []struct{ id, target, body string }{
		{"chat", "/v1/chat/completions", "%"},
		{"completions", "/v1/completions", "%"},
		{"responses", "/v1/responses", "%"},
		{"embeddings", "/v1/embeddings", "%"},
		{"messages", "/v1/messages", "%"},
		{"prefixed", "/vendor/v1/chat/completions", "%"},
		{"azure", "/openai/deployments/@/chat/completions?api-version=2024-10-21", ""},
		{"azure-both", "/openai/deployments/@/chat/completions", "%"},
		{"bedrock", "/model/@/invoke", ""},
		{"gemini", "/v1beta/models/@:generateContent", ""},
	} {
		for model, want := range map[string]int{mine: 200, other: 403} {
			t.Run("PX-5/"+row.id+"/"+model, func(t *testing.T) {
				r := r.as(t)
				body := `{"messages":[]}`
				if row.body != "" {
					body = `{"model":"` + model + `"}`
				}
				g := r.mustDo(client, "POST", strings.ReplaceAll(row.target, "@", model), body, nil)
				if g.status != want {
					t.Errorf("%d %s, want %d", g.status, g.body, want)
				}
			})
		}
	}
	for _, target := range []string{
		"/openai/deployments/" + mine + "/chat/completions", "/model/" + mine + "/invoke", "/v1beta/models/" + mine + ":generateContent",
	} {
		t.Run("P-52/path/refused", func(t *testing.T) {
			r := r.as(t)
			if g := r.mustDo(client, "POST", target, chat(other), nil); g.status != 400 || g.reason() != "ambiguous-model" {
				t.Errorf("%s: %d %s", target, g.status, g.body)
			}
		})
	}
	for _, target := range []string{"/v1/files", "/v1/batches", "/v1/realtime", "/v1/fine_tuning/jobs", "/model/" + mine + "/other"} {
		t.Run("P-59/endpoint/refused", func(t *testing.T) {
			r := r.as(t)
			if g := r.mustDo(client, "POST", target, chat(mine), nil); g.status != 403 || g.reason() != "unknown-llm-endpoint" {
				t.Errorf("%s: %d %s", target, g.status, g.body)
			}
		})
	}
}

func TestModelList(t *testing.T) {
	r := start(t)
	for bot, want := range map[string][]string{
		"sales-bot":   {"customer-service-llm"},
		"finance-bot": {"financial-analysis-llm"},
		"other":       {},
	} {
		t.Run("P-61/"+bot, func(t *testing.T) {
			r := r.as(t)
			g := r.mustDo(r.client(false, r.ca.issue(t, "/"+bot)), "GET", "/v1/models", "", nil)
			var list struct {
				Object string
				Data   []struct{ ID string }
			}
			if err := json.Unmarshal([]byte(g.body), &list); err != nil || g.status != 200 || list.Object != "list" {
				t.Fatal(g.status, g.body, err)
			}
			names := []string{}
			for _, m := range list.Data {
				names = append(names, m.ID)
			}
			if !slices.Equal(names, want) {
				t.Errorf("models %v, want %v", names, want)
			}
		})
	}
	t.Run("P-61/listed-twice/refused", func(t *testing.T) {
		r := start(t, withUpstream(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(`{"object":"list","has_more":false,"models":[{"name":"financial-analysis-llm"}],"first_id":"financial-analysis-llm",
				"data":[{"id":"financial-analysis-llm"},{"id":"customer-service-llm"}]}`))
		})))
		g := r.mustDo(r.client(false, r.ca.issue(t, "/sales-bot")), "GET", "/v1/models", "", nil)
		if g.body != `{"data":[{"id":"customer-service-llm"}],"has_more":false,"object":"list"}` {
			t.Error(g.status, g.body)
		}
	})
	t.Run("P-61/refused", func(t *testing.T) {
		r := r.as(t)
		r.setPolicies(policy.Policy{Name: "none", Effect: policy.Deny, Subjects: []string{"spiffe://td.test/**"}, Service: "llm", Methods: []string{"*"}, Paths: []string{"/**"}})
		if g := r.mustDo(r.client(false, r.ca.issue(t, "/sales-bot")), "GET", "/v1/models", "", nil); g.status != 403 {
			t.Errorf("%d %s", g.status, g.body)
		}
	})
}
