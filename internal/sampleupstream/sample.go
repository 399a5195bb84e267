// Package sampleupstream is a small server in the shape of the OpenAI API, for
// trying the proxy out and for tests. Nothing in it is protected: it is what a
// proxy stands in front of.
//
// It serves POST /v1/chat/completions (JSON, and server-sent events when the
// request has "stream": true), GET /v1/models, and /echo, which answers what it
// received.
package sampleupstream

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Config says what the sample server has and wants.
type Config struct {
	Models           []string // that it lists, and answers for; nil means DefaultModels
	AnyModel         bool     // answer for every other model too
	CredentialHeader string   // canonical; the header that must carry Credential
	Credential       string   // the whole value; "" wants none
}

// DefaultModels are the models of a server that was told none.
func DefaultModels() []string {
	return []string{"sample-llm", "customer-service-llm", "financial-analysis-llm", "code-llm"}
}

const maxBody = 16 << 20

type server struct{ Config }

// New gives the server's handler.
func New(config Config) http.Handler {
	if config.Models == nil {
		config.Models = DefaultModels()
	}
	s := &server{config}
	mux := http.NewServeMux()
	mux.Handle("POST /v1/chat/completions", s.withCredential(s.chat))
	mux.Handle("GET /v1/models", s.withCredential(s.models))
	mux.HandleFunc("/echo", s.echo)
	mux.HandleFunc("/echo/", s.echo)
	return mux
}

// withCredential answers 401 to who does not bring the credential.
func (s *server) withCredential(next http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header[s.CredentialHeader]; s.Credential != "" && (len(got) != 1 || got[0] != s.Credential) {
			fail(w, http.StatusUnauthorized, "this API wants a key in "+s.CredentialHeader)
			return
		}
		next(w, r)
	})
}

// Chat is a chat-completions request. Sample is this server's own addition.
type Chat struct {
	Model    string    `json:"model"`
	Messages []Message `json:"messages"`
	Stream   bool      `json:"stream"`
	Sample   Sample    `json:"sample"`
}

// Message is one turn of a conversation.
type Message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// Sample says how a stream is to run.
type Sample struct {
	Chunks  int   `json:"chunks"`   // how many pieces; 0 means one per word, below 0 until the caller leaves
	DelayMS int64 `json:"delay_ms"` // pause between pieces
}

func (s *server) chat(w http.ResponseWriter, r *http.Request) {
	var chat Chat
	if err := json.NewDecoder(io.LimitReader(r.Body, maxBody)).Decode(&chat); err != nil {
		fail(w, http.StatusBadRequest, "the body is not a chat completion request")
		return
	}
	if !s.has(chat.Model) {
		fail(w, http.StatusNotFound, fmt.Sprintf("the model %q does not exist", chat.Model))
		return
	}
	if chat.Stream {
		stream(w, r.Context(), chat)
		return
	}
	reply(w, map[string]any{
		"id": "chatcmpl-sample", "object": "chat.completion", "model": chat.Model,
		"choices": []any{map[string]any{
			"index": 0, "finish_reason": "stop", "message": Message{"assistant", answerTo(chat)},
		}},
		"usage": map[string]int{"prompt_tokens": 1, "completion_tokens": len(strings.Fields(answerTo(chat))), "total_tokens": 1 + len(strings.Fields(answerTo(chat)))},
	})
}

func (s *server) has(model string) bool {
	return s.AnyModel || slices.Contains(s.Models, model)
}

func answerTo(chat Chat) string {
	said := "nothing"
	if n := len(chat.Messages); n > 0 {
		said = chat.Messages[n-1].Content
	}
	return "This is " + chat.Model + ". You said: " + said
}

// stream sends the answer piece by piece as server-sent events.
func stream(w http.ResponseWriter, ctx context.Context, chat Chat) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	words := strings.Fields(answerTo(chat))
	chunks := chat.Sample.Chunks
	if chunks == 0 {
		chunks = len(words)
	}
	for i := 0; chunks < 0 || i < chunks; i++ {
		if !event(w, chat.Model, words[i%len(words)]+" ") || !pause(ctx, chat.Sample.DelayMS) {
			return
		}
	}
	_, _ = io.WriteString(w, "data: [DONE]\n\n") // a caller that left does not mind
}

// event sends one piece; false means that nobody takes it.
func event(w http.ResponseWriter, model, text string) bool {
	piece, err := json.Marshal(map[string]any{
		"id": "chatcmpl-sample", "object": "chat.completion.chunk", "model": model,
		"choices": []any{map[string]any{"index": 0, "delta": map[string]string{"content": text}}},
	})
	if err == nil {
		_, err = fmt.Fprintf(w, "data: %s\n\n", piece)
	}
	return err == nil && http.NewResponseController(w).Flush() == nil
}

// pause waits; false means that the caller left.
func pause(ctx context.Context, ms int64) bool {
	if ctx.Err() != nil || ms <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(time.Duration(ms) * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (s *server) models(w http.ResponseWriter, _ *http.Request) {
	data := []any{}
	for _, model := range s.Models {
		data = append(data, map[string]string{"id": model, "object": "model", "owned_by": "sample"})
	}
	reply(w, map[string]any{"object": "list", "data": data})
}

// Echo is what /echo answers.
type Echo struct {
	Method string              `json:"method"`
	Target string              `json:"target"` // as on the wire
	Host   string              `json:"host"`
	Header map[string][]string `json:"header"` // without the value of the credential
	Body   string              `json:"body"`   // its first 64 KiB
}

func (s *server) echo(w http.ResponseWriter, r *http.Request) {
	const limit = 64 << 10
	body, err := io.ReadAll(io.LimitReader(r.Body, limit))
	if err != nil {
		fail(w, http.StatusBadRequest, "the body broke off")
		return
	}
	header := r.Header.Clone()
	if _, ok := header[s.CredentialHeader]; ok {
		header[s.CredentialHeader] = []string{"[redacted]"}
	}
	reply(w, Echo{r.Method, r.RequestURI, r.Host, header, string(body)})
}

func reply(w http.ResponseWriter, body any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(body) // the caller has left if this fails
}

func fail(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]string{"message": message, "type": "invalid_request_error"}})
}
