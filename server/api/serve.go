package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/audit"
	"github.com/authsec-ai/icp/server/authn"
	"github.com/authsec-ai/icp/server/secret"
)

const headerRequestID = "X-Request-Id"

// serve is the way of every request to a route.
func (a *API) serve(r route, ec echo.Context) error {
	began := time.Now()
	c, err := a.newCall(r, ec)
	if err == nil {
		err = a.admit(c)
	}
	if err == nil {
		err = handle(r, c)
	}
	if err != nil {
		a.refuse(c, err)
	}
	a.metrics.request(c.ctx, r, c.ec.Response().Status, time.Since(began))
	return nil
}

// newCall gives a call also with an error, so that it can be refused.
func (a *API) newCall(r route, ec echo.Context) (*call, error) {
	c := &call{api: a, route: r, ec: ec, ctx: ec.Request().Context()}
	var err error
	if c.requestID, err = a.requestID(ec.Request()); err != nil {
		return c, err
	}
	ec.Response().Header().Set(headerRequestID, c.requestID)
	if c.query, err = parseQuery(r, ec.Request().URL.RawQuery); err != nil {
		return c, err
	}
	return c, nil
}

// admit establishes the caller and refuses those that the route is not for.
func (a *API) admit(c *call) error {
	var err error
	switch c.route.access {
	case public:
		return nil
	case agent:
		c.principal, err = a.Authn.Agent(c.ctx, c.chain())
	case returningAgent:
		c.principal, err = a.Authn.ReturningAgent(c.ctx, c.chain())
	case gateway:
		c.principal, err = a.Authn.Workload(c.ctx, c.chain())
		if err == nil {
			err = mayReadPolicies(c.principal)
		}
	default:
		c.principal, err = a.Authn.Token(c.ctx, c.ec.Request().Header.Values("Authorization"))
		if err == nil && !slices.Contains(c.route.access.roles(), c.principal.Role) {
			err = identity.Errorf(identity.Denied, "role %s may not %s %s", c.principal.Role, c.route.method, c.route.path)
		}
	}
	return err
}

func mayReadPolicies(p authn.Principal) error {
	if len(p.Entry.Gateway) == 0 {
		return identity.Errorf(identity.Denied, "workload %s has no gateway grant; list the services whose policies it may read in its entry", p.SPIFFEID)
	}
	return nil
}

// handle runs the handler; a panic in it is an error of ours.
func handle(r route, c *call) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("handler of %s panicked: %v\n%s", r.path, v, debug.Stack())
		}
	}()
	return r.handle(c)
}

// refuse records a refusal, logs a fault of ours, and answers.
func (a *API) refuse(c *call, err error) {
	if c.ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return // the client has left
	}
	code := identity.CodeOf(err)
	if code == identity.Unauthenticated {
		a.metrics.unauthenticated(c.ctx, c.route)
	}
	if code == identity.Denied {
		a.recordDenial(c, err)
	}
	if ending := a.Draining.Err() != nil && errors.Is(err, context.Canceled); !ending && (code == identity.Internal || code == identity.Unavailable) {
		a.Telemetry.Log.LogAttrs(c.ctx, slog.LevelError, "request failed", slog.String("request_id", c.requestID),
			slog.String("method", c.route.method), slog.String("route", c.route.path), slog.String("error", err.Error()))
	}
	if writeErr := writeProblem(c.ec.Response(), problemOf(err, c.requestID)); writeErr != nil {
		a.Telemetry.Log.LogAttrs(c.ctx, slog.LevelDebug, "answer not delivered", slog.String("request_id", c.requestID), slog.String("error", writeErr.Error()))
	}
}

// recordDenial leaves an audit event if it is known who was denied. Refusals of
// strangers are only counted, so that they can't fill the trail.
func (a *API) recordDenial(c *call, err error) {
	if c.principal.Actor == "" {
		return
	}
	ev := audit.Event{
		Time: a.Now().UTC(), Tenant: c.principal.Tenant, Actor: c.principal.Actor,
		Action: c.route.method + " " + c.route.path, Object: c.object(), Outcome: audit.Denied,
		Reason: identity.MessageOf(err), RequestID: c.requestID,
	}
	// The request may be over, and its denial must still be recorded.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), 5*time.Second)
	defer cancel()
	if err := a.Store.RecordEvent(ctx, ev); err != nil {
		a.Telemetry.Log.LogAttrs(ctx, slog.LevelError, "denial not recorded", slog.String("request_id", c.requestID), slog.String("error", err.Error()))
	}
}

// unrouted answers requests that match no route.
func (a *API) unrouted(err error, ec echo.Context) {
	requestID, idErr := a.requestID(ec.Request())
	if idErr != nil {
		err = idErr
	}
	ec.Response().Header().Set(headerRequestID, requestID)
	_ = writeProblem(ec.Response(), problemOf(err, requestID)) // the client is gone if this fails
}

// requestID is the caller's, if it is harmless in a log, else a new one.
func (a *API) requestID(r *http.Request) (string, error) {
	const alphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
	id := r.Header.Get(headerRequestID)
	if len(id) >= 8 && len(id) <= 64 && strings.Trim(id, alphabet) == "" {
		return id, nil
	}
	return secret.NewID(a.Random, "")
}

// parseQuery refuses parameters that the route does not know, for a filter with
// a typing error would otherwise list everything.
func parseQuery(r route, raw string) (url.Values, error) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return nil, identity.Errorf(identity.Invalid, "query string is malformed")
	}
	for name, list := range values {
		known := slices.Contains(r.query, name) || (name == "tenant_id" && r.access.roles() != nil)
		if !known && !r.body.ignoresUnknown() {
			return nil, identity.Errorf(identity.Invalid, "query parameter %q is not known here", identity.Clip(name))
		}
		if len(list) > 1 {
			return nil, identity.Errorf(identity.Invalid, "query parameter %q is given twice", identity.Clip(name))
		}
	}
	return values, nil
}
