package llm

import (
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Kind is what an endpoint does with models.
type Kind int

// The kinds of endpoint.
const (
	Unknown   Kind = iota // refused
	Inference             // POST: runs the model that the request names
	List                  // GET: lists models; the answer is filtered
	Model                 // GET: describes one model
)

// Endpoint is what method and path alone say.
type Endpoint struct {
	Kind     Kind
	Model    string // named in the path, "" if none
	NeedBody bool   // the model is in the body
}

// bodyEndpoints name their model in the body.
var bodyEndpoints = []string{
	"/v1/chat/completions", // OpenAI
	"/v1/responses",
	"/v1/completions",
	"/v1/embeddings",
	"/v1/messages", // Anthropic
	"/v1/messages/count_tokens",
}

// BodyEndpoints lists the paths at which a model of GET /v1/models may be used.
func BodyEndpoints() []string { return slices.Clone(bodyEndpoints) }

// Match tells the endpoint of a canonical path.
func Match(method, path string) Endpoint {
	switch {
	case method == http.MethodGet && path == "/v1/models":
		return Endpoint{Kind: List}
	case method == http.MethodGet && strings.HasPrefix(path, "/v1/models/"):
		return pathModel(Model, strings.TrimPrefix(path, "/v1/models/"))
	case method != http.MethodPost:
		return Endpoint{}
	case slices.Contains(bodyEndpoints, path):
		return Endpoint{Kind: Inference, NeedBody: true}
	}
	return matchPathModel(path)
}

// matchPathModel knows the APIs that name the model in the path.
func matchPathModel(path string) Endpoint {
	if rest, ok := strings.CutPrefix(path, "/openai/deployments/"); ok { // Azure OpenAI
		name, action, _ := strings.Cut(rest, "/")
		if slices.Contains(bodyEndpoints, "/v1/"+action) {
			return pathModel(Inference, name)
		}
	}
	if rest, ok := strings.CutPrefix(path, "/model/"); ok { // Bedrock
		name, action, _ := strings.Cut(rest, "/")
		switch action {
		case "invoke", "invoke-with-response-stream", "converse", "converse-stream":
			return pathModel(Inference, name)
		}
	}
	if rest, ok := strings.CutPrefix(path, "/v1beta/models/"); ok { // Gemini
		name, action, _ := strings.Cut(rest, ":")
		switch action {
		case "generateContent", "streamGenerateContent", "embedContent", "countTokens":
			return pathModel(Inference, name)
		}
	}
	return Endpoint{}
}

func pathModel(kind Kind, name string) Endpoint {
	if name == "" || strings.Contains(name, "/") {
		return Endpoint{}
	}
	return Endpoint{Kind: kind, Model: name}
}

// ModelOf gives the one model that path, query and body of an Inference
// request agree on. It is an error if they name none, or differ.
func ModelOf(e Endpoint, query string, header http.Header, raw []byte) (string, error) {
	if err := checkMedia(header); err != nil {
		return "", err
	}
	found, err := scan(raw)
	if err != nil {
		return "", err
	}
	if e.NeedBody && found.Model == "" {
		return "", malformed("no-model", `the request body has no "model"`)
	}
	named, err := queryModels(query)
	if err != nil {
		return "", err
	}
	return agree(append(named, e.Model, found.Model))
}

// agree gives the one name in names; empty ones count for nothing.
func agree(names []string) (string, error) {
	model := ""
	for _, name := range names {
		switch {
		case name == "" || name == model:
		case model != "":
			return "", malformed("ambiguous-model", "the request names two models: "+quote(model)+" and "+quote(name))
		default:
			model = name
		}
	}
	return model, nil
}

// queryModels gives the values of every query parameter that is "model" in any
// case.
func queryModels(query string) ([]string, *Error) {
	var named []string
	for pair := range strings.SplitSeq(query, "&") {
		key, value, _ := strings.Cut(pair, "=")
		key, errKey := url.QueryUnescape(key)
		value, errValue := url.QueryUnescape(value)
		if errKey != nil || errValue != nil {
			return nil, malformed("malformed-query", "the query has a bad percent-encoding")
		}
		if !strings.EqualFold(key, "model") {
			continue
		}
		if err := checkModel(value); err != nil {
			return nil, err
		}
		named = append(named, value)
	}
	return named, nil
}

// checkMedia wants one uncompressed JSON body.
func checkMedia(header http.Header) *Error {
	if len(header["Content-Encoding"]) > 0 {
		return unsupported("send the request body without Content-Encoding")
	}
	types := header["Content-Type"]
	if len(types) != 1 {
		return unsupported("send one Content-Type: application/json")
	}
	kind, params, err := mime.ParseMediaType(types[0])
	if err != nil || kind != "application/json" {
		return unsupported("send Content-Type: application/json")
	}
	if charset, ok := params["charset"]; ok && !strings.EqualFold(charset, "utf-8") {
		return unsupported("send the request body in UTF-8")
	}
	return nil
}
