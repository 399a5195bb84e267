// Package llm finds out which model a request to an LLM API asks for, in the
// APIs of OpenAI, Azure OpenAI, Anthropic, Gemini and Bedrock.
//
// The model decides whether a request is allowed, so a request whose model two
// readers could read differently is refused: a repeated or differently cased
// key, a compressed body, a model in the body that is not the one in the path.
// An endpoint that is not known here is refused too.
package llm

import (
	"net/http"

	"github.com/authsec-ai/icp/identity"
)

// Error says why no model can be told for a request.
type Error struct {
	Status int    // HTTP status of the answer
	Reason string // constant text, safe to show and to count by
	Detail string // for the caller
}

// Error gives the detail.
func (e *Error) Error() string { return e.Detail }

func malformed(reason, detail string) *Error {
	return &Error{http.StatusBadRequest, reason, detail}
}

func unsupported(detail string) *Error {
	return &Error{http.StatusUnsupportedMediaType, "unsupported-media-type", detail}
}

func quote(s string) string { return `"` + identity.Clip(s) + `"` }
