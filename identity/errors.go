package identity

import (
	"errors"
	"fmt"
)

// Code says what kind of failure an Error is. Each transport maps codes to its
// own status in one table.
type Code string

const (
	Invalid         Code = "invalid"           // 400: malformed input
	Unauthenticated Code = "unauthenticated"   // 401: unknown caller
	Denied          Code = "permission_denied" // 403: known caller, not allowed
	NotFound        Code = "not_found"         // 404: absent, or another tenant's
	Conflict        Code = "conflict"          // 409: it exists already
	TooLarge        Code = "too_large"         // 413: over a size limit
	Unsupported     Code = "unsupported"       // 415: media type
	LimitExceeded   Code = "limit_exceeded"    // 422: over a tenant limit
	RateLimited     Code = "rate_limited"      // 429
	Unavailable     Code = "unavailable"       // 503: try again later
	Internal        Code = "internal"          // 500: a fault of ours
)

// Error is an error with a code that crosses package and process borders.
type Error struct {
	Code    Code
	Message string // says what was wrong and what to do; safe to show to the caller
	ID      string // of the object in the way, with Conflict
	Err     error  // cause, for logs; not shown to callers
}

// Error gives the message and, for logs, the cause.
func (e *Error) Error() string {
	if e.Err == nil {
		return e.Message
	}
	return e.Message + ": " + e.Err.Error()
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an Error whose message callers may see.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// CodeOf gives the code of the first Error in err's chain; Internal if there
// is none, and "" for nil.
func CodeOf(err error) Code {
	var e *Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &e):
		return e.Code
	}
	return Internal
}

// MessageOf gives what a caller may be told about err: the message of the
// first Error in its chain, else a fixed text.
func MessageOf(err error) string {
	var e *Error
	if errors.As(err, &e) && e.Code != Internal {
		return e.Message
	}
	return "internal error; the server's log has the cause under this request id"
}
