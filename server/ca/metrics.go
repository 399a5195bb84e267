package ca

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/authsec-ai/icp/identity"
)

// metrics counts what the CA does. Tenants are not labels: there may be many.
type metrics struct {
	credentials metric.Int64Counter
	duration    metric.Float64Histogram
}

func newMetrics(meter metric.Meter) (m metrics, err error) {
	m.credentials, err = meter.Int64Counter("icp.ca.credentials",
		metric.WithDescription("credentials asked for, by kind and outcome: issued, or the code of the refusal"))
	if err != nil {
		return m, err
	}
	m.duration, err = meter.Float64Histogram("icp.ca.request.duration", metric.WithUnit("s"),
		metric.WithDescription("time to answer one signing request, whatever the number of its items"),
		metric.WithExplicitBucketBoundaries(.0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 5))
	return m, err
}

func (m metrics) count(ctx context.Context, kind identity.Kind, err error) {
	outcome := "issued"
	if err != nil {
		outcome = string(identity.CodeOf(err))
	}
	m.credentials.Add(ctx, 1, metric.WithAttributeSet(attribute.NewSet(
		attribute.String("kind", string(kind)), attribute.String("outcome", outcome))))
}

func (m metrics) time(ctx context.Context, kind identity.Kind, d time.Duration) {
	m.duration.Record(ctx, d.Seconds(), metric.WithAttributeSet(attribute.NewSet(
		attribute.String("kind", string(kind)))))
}
