// Package telemetry sets up a program's log, metrics and health endpoints.
package telemetry

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sort"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
)

// Telemetry is one program's log and metrics.
type Telemetry struct {
	Log   *slog.Logger
	Meter metric.Meter

	registry *prometheus.Registry
	provider *sdkmetric.MeterProvider

	mu     sync.Mutex
	checks map[string]Check
}

// Check reports why a part is not ready; nil means that it is.
type Check func(ctx context.Context) error

// New sets up telemetry for the program called service, logging JSON lines of
// at least level to w.
func New(service string, w io.Writer, level slog.Level) (*Telemetry, error) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	exporter, err := otelprom.New(otelprom.WithRegisterer(registry), otelprom.WithoutScopeInfo())
	if err != nil {
		return nil, fmt.Errorf("set up the Prometheus exporter: %w", err)
	}
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(exporter), sdkmetric.WithView(seconds()))
	log := slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level})).With("service", service)
	return &Telemetry{
		Log:      log,
		Meter:    provider.Meter("github.com/authsec-ai/icp/" + service),
		registry: registry,
		provider: provider,
		checks:   map[string]Check{},
	}, nil
}

// seconds gives histograms in seconds buckets from 0.1 ms to 10 s; the default
// ones are for milliseconds.
func seconds() sdkmetric.View {
	return sdkmetric.NewView(sdkmetric.Instrument{Kind: sdkmetric.InstrumentKindHistogram, Unit: "s"},
		sdkmetric.Stream{Aggregation: sdkmetric.AggregationExplicitBucketHistogram{
			Boundaries: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}})
}

// AddCheck makes readiness depend on check. A second check of the same name
// replaces the first.
func (t *Telemetry) AddCheck(name string, check Check) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.checks[name] = check
}

// Handler serves /healthz (the process runs), /readyz (every check passes) and
// /metrics (Prometheus).
func (t *Telemetry) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(t.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		writeStatus(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	mux.HandleFunc("GET /readyz", t.ready)
	return mux
}

func (t *Telemetry) ready(w http.ResponseWriter, r *http.Request) {
	status, body := http.StatusOK, map[string]string{"status": "ok"}
	for _, name := range t.checkNames() {
		if err := t.check(r.Context(), name); err != nil {
			status, body["status"], body[name] = http.StatusServiceUnavailable, "not ready", err.Error()
		}
	}
	writeStatus(w, status, body)
}

// Ready gives why the program is not ready; nil means that it is.
func (t *Telemetry) Ready(ctx context.Context) error {
	for _, name := range t.checkNames() {
		if err := t.check(ctx, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func (t *Telemetry) checkNames() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	names := make([]string, 0, len(t.checks))
	for name := range t.checks {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

func (t *Telemetry) check(ctx context.Context, name string) error {
	t.mu.Lock()
	check := t.checks[name]
	t.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	return check(ctx)
}

// checkTimeout is how long a part may take to say that it is ready.
const checkTimeout = 2 * time.Second

// Close flushes and releases the metrics pipeline.
func (t *Telemetry) Close(ctx context.Context) error { return t.provider.Shutdown(ctx) }

func writeStatus(w http.ResponseWriter, status int, body map[string]string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client is gone if this fails
}
