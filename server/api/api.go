// Package api is the server's HTTP surface: the administrators' REST API, the
// agents' and gateways' API, and the bundle endpoint. File routes.go shows all
// of it and who may use it.
//
// A handler binds the request, calls one of the services, and renders the
// answer. Everything that holds for every route happens in one place, serve: who
// is calling, whether this route is open to them, what a refusal looks like, and
// that it is recorded.
package api

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/telemetry"
	"github.com/authsec-ai/icp/internal/wire"
	"github.com/authsec-ai/icp/server/authn"
	"github.com/authsec-ai/icp/server/nodes"
	"github.com/authsec-ai/icp/server/registry"
	"github.com/authsec-ai/icp/server/store"
)

// Store is what streams and bundle endpoints read, and where denials go.
type Store interface {
	store.Tenants
	store.Registry
	TouchNode(ctx context.Context, tenant, id, serial string, now time.Time) error
	Revocations(ctx context.Context, tenant string, now time.Time) ([]identity.Revocation, error)
}

// CA signs for agents and gives tenants' bundles.
type CA interface {
	SignWorkloads(ctx context.Context, tenant, node string, items []wire.SignItem) []wire.SignResult
	SignJWTs(ctx context.Context, tenant, node string, items []wire.SignJWTItem) []wire.SignJWTResult
	Bundle(ctx context.Context, tenant string) (*spiffebundle.Bundle, error)
}

// Config holds what an API works with. All of it is required but Heartbeat.
type Config struct {
	Store     Store
	Registry  *registry.Registry
	Authn     *authn.Authenticator
	Nodes     *nodes.Service
	CA        CA
	Telemetry *telemetry.Telemetry
	Now       func() time.Time
	Random    io.Reader
	Draining  context.Context // streams end when it does
	Heartbeat time.Duration   // of streams; 0 means wire.Heartbeat
}

// API serves HTTP.
type API struct {
	Config
	metrics *metrics
	echo    *echo.Echo
}

// New refuses an incomplete Config.
func New(cfg Config) (*API, error) {
	if cfg.Store == nil || cfg.Registry == nil || cfg.Authn == nil || cfg.Nodes == nil || cfg.CA == nil ||
		cfg.Telemetry == nil || cfg.Now == nil || cfg.Random == nil || cfg.Draining == nil {
		return nil, errors.New("api: every field of Config but Heartbeat is required")
	}
	if cfg.Heartbeat == 0 {
		cfg.Heartbeat = wire.Heartbeat
	}
	m, err := newMetrics(cfg.Telemetry.Meter)
	if err != nil {
		return nil, err
	}
	a := &API{Config: cfg, metrics: m, echo: echo.New()}
	a.echo.HTTPErrorHandler = a.unrouted
	for _, prefix := range prefixes() {
		for _, r := range a.routes() {
			a.echo.Add(r.method, prefix+r.path, func(ec echo.Context) error { return a.serve(r, ec) })
		}
	}
	return a, nil
}

// ServeHTTP serves one request.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.echo.ServeHTTP(w, r) }
