package proxy

import (
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/authsec-ai/icp/policy"
	"github.com/authsec-ai/icp/proxy/llm"
)

// Outcomes of a request, for audit and metrics.
const (
	outcomeAllowed = "allowed"
	outcomeDenied  = "denied"  // well-formed, and not allowed
	outcomeRefused = "refused" // malformed, or readable in two ways
	outcomeFailed  = "failed"  // allowed, and not answered
)

// refusal ends a request. It is an error, so that it can be the cause of a
// cancelled context.
type refusal struct {
	status  int
	outcome string
	reason  string // constant text, to count by
	detail  string // for the caller: what was wrong and what to do
	wait    time.Duration
}

// Error gives the detail.
func (r *refusal) Error() string { return r.detail }

func malformed(reason, detail string) *refusal {
	return &refusal{status: http.StatusBadRequest, outcome: outcomeRefused, reason: reason, detail: detail}
}

func denied(reason, detail string) *refusal {
	return &refusal{status: http.StatusForbidden, outcome: outcomeDenied, reason: reason, detail: detail}
}

func failed(status int, reason, detail string) *refusal {
	return &refusal{status: status, outcome: outcomeFailed, reason: reason, detail: detail}
}

func refuseExpired() *refusal {
	return denied("svid-expired", "the caller's SVID has expired; connect again with a current one")
}

func refuseRevoked() *refusal {
	return denied("svid-revoked", "the caller's SVID has been revoked")
}

func refuseUntrusted() *refusal {
	return denied("svid-untrusted", "the caller's SVID is no longer vouched for by a trust bundle")
}

func refusePolicy(d policy.Decision) *refusal { return denied("policy", d.Reason) }

func refuseMethod() *refusal {
	r := malformed("method-not-allowed", "use an HTTP method in capitals other than TRACE and CONNECT")
	r.status = http.StatusMethodNotAllowed
	return r
}

func refuseLLM(err error) *refusal {
	var known *llm.Error
	if !errors.As(err, &known) {
		return failed(http.StatusInternalServerError, "internal", "the request could not be judged")
	}
	r := malformed(known.Reason, known.Detail)
	r.status = known.Status
	return r
}

func refuseTooLarge() *refusal {
	r := malformed("body-too-large", "the request body is over this route's limit")
	r.status = http.StatusRequestEntityTooLarge
	return r
}

func refuseMemory() *refusal {
	r := failed(http.StatusServiceUnavailable, "memory-full", "too many request bodies are being judged at the moment; try again shortly")
	r.wait = time.Second
	return r
}

func refuseRate(wait time.Duration) *refusal {
	r := denied("rate-limited", "the policy's requests per minute are used up")
	r.status, r.wait = http.StatusTooManyRequests, wait
	return r
}

// problem is the body of a refusal (RFC 9457).
type problem struct {
	Title     string `json:"title"`
	Status    int    `json:"status"`
	Detail    string `json:"detail"`
	Reason    string `json:"reason"`
	RequestID string `json:"request_id"`
}

// render gives header and body of the answer.
func (r *refusal) render(header http.Header, requestID string) []byte {
	body, err := json.Marshal(problem{http.StatusText(r.status), r.status, r.detail, r.reason, requestID})
	if err != nil {
		body = []byte("{}") // strings and numbers always marshal
	}
	body = append(body, '\n')
	header.Set("Content-Type", "application/problem+json")
	header.Set("Content-Length", strconv.Itoa(len(body)))
	header.Set("Cache-Control", "no-store")
	if r.wait > 0 {
		header.Set("Retry-After", strconv.Itoa(int(math.Ceil(r.wait.Seconds()))))
	}
	return body
}
