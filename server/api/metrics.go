package api

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/authsec-ai/icp/identity"
)

// metrics are the counts of one API.
type metrics struct {
	requests     metric.Int64Counter
	duration     metric.Float64Histogram
	authFailures metric.Int64Counter
	attestations metric.Int64Counter
	streams      metric.Int64UpDownCounter
}

func newMetrics(meter metric.Meter) (*metrics, error) {
	m := &metrics{}
	var errs [5]error
	m.requests, errs[0] = meter.Int64Counter("icp_server_requests", metric.WithDescription("Requests by route and status."))
	m.duration, errs[1] = meter.Float64Histogram("icp_server_request_duration", metric.WithUnit("s"), metric.WithDescription("Time to answer, by route; streams are left out."))
	m.authFailures, errs[2] = meter.Int64Counter("icp_server_auth_failures", metric.WithDescription("Callers that could not be established, by route."))
	m.attestations, errs[3] = meter.Int64Counter("icp_server_attestations", metric.WithDescription("Agents attested and renewed, by action, outcome and cause."))
	m.streams, errs[4] = meter.Int64UpDownCounter("icp_server_streams", metric.WithDescription("Open streams by route."))
	for _, err := range errs {
		if err != nil {
			return nil, fmt.Errorf("set up the API's metrics: %w", err)
		}
	}
	return m, nil
}

func routeAttr(r route) attribute.KeyValue { return attribute.String("route", r.method+" "+r.path) }

func (m *metrics) request(ctx context.Context, r route, status int, took time.Duration) {
	m.requests.Add(ctx, 1, metric.WithAttributes(routeAttr(r), attribute.Int("status", status)))
	if !r.isStream() {
		m.duration.Record(ctx, took.Seconds(), metric.WithAttributes(routeAttr(r)))
	}
}

func (m *metrics) unauthenticated(ctx context.Context, r route) {
	m.authFailures.Add(ctx, 1, metric.WithAttributes(routeAttr(r)))
}

// attestation counts one attestation or renewal; the cause of a failure is its code.
func (m *metrics) attestation(ctx context.Context, action string, err error) {
	outcome := "allowed"
	if err != nil {
		outcome = "denied"
	}
	m.attestations.Add(ctx, 1, metric.WithAttributes(attribute.String("action", action),
		attribute.String("outcome", outcome), attribute.String("cause", string(identity.CodeOf(err)))))
}

// stream counts a stream as open until the function that it gives is called.
func (m *metrics) stream(ctx context.Context, r route) (closed func()) {
	attrs := metric.WithAttributes(routeAttr(r))
	m.streams.Add(ctx, 1, attrs)
	return func() { m.streams.Add(context.WithoutCancel(ctx), -1, attrs) }
}
