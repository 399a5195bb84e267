package api

import (
	"encoding/json"
	"errors"
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/authsec-ai/icp/identity"
)

// problem is an error as callers see it (RFC 9457).
type problem struct {
	Type      string `json:"type"`
	Title     string `json:"title"`
	Status    int    `json:"status"`
	Detail    string `json:"detail"`
	Code      string `json:"code"`
	RequestID string `json:"request_id"`
	ID        string `json:"id,omitempty"` // of the object in the way, with a conflict
}

// statusOf is the one table from error codes to HTTP statuses.
func statusOf(code identity.Code) int {
	switch code {
	case identity.Invalid:
		return http.StatusBadRequest
	case identity.Unauthenticated:
		return http.StatusUnauthorized
	case identity.Denied:
		return http.StatusForbidden
	case identity.NotFound:
		return http.StatusNotFound
	case identity.Conflict:
		return http.StatusConflict
	case identity.TooLarge:
		return http.StatusRequestEntityTooLarge
	case identity.Unsupported:
		return http.StatusUnsupportedMediaType
	case identity.LimitExceeded:
		return http.StatusUnprocessableEntity
	case identity.RateLimited:
		return http.StatusTooManyRequests
	case identity.Unavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

func problemOf(err error, requestID string) problem {
	p := problem{Type: "about:blank", RequestID: requestID}
	var routing *echo.HTTPError
	var e *identity.Error
	switch {
	case errors.As(err, &routing):
		p.Status, p.Code, p.Detail = routing.Code, "no_route", "there is no such route; the path is wrong"
		if routing.Code == http.StatusMethodNotAllowed {
			p.Code, p.Detail = "method_not_allowed", "this path has no such method; the Allow header lists those it has"
		}
	default:
		p.Status, p.Code, p.Detail = statusOf(identity.CodeOf(err)), string(identity.CodeOf(err)), identity.MessageOf(err)
	}
	if errors.As(err, &e) {
		p.ID = e.ID
	}
	p.Title = http.StatusText(p.Status)
	return p
}

// writeProblem answers with p, unless the answer has begun already.
func writeProblem(w *echo.Response, p problem) error {
	if w.Committed {
		return nil
	}
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	switch p.Status {
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", `Bearer realm="icp"`)
	case http.StatusServiceUnavailable, http.StatusTooManyRequests:
		h.Set("Retry-After", "1")
	}
	w.WriteHeader(p.Status)
	return json.NewEncoder(w).Encode(p)
}
