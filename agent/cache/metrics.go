package cache

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/authsec-ai/icp/identity"
)

type metrics struct {
	issued  metric.Int64Counter
	failed  metric.Int64Counter
	overdue metric.Int64Counter
}

func newMetrics(meter metric.Meter) (m metrics, err error) {
	if m.issued, err = meter.Int64Counter("icp_agent_svids_issued",
		metric.WithDescription("SVIDs that this agent was issued for its workloads")); err != nil {
		return m, fmt.Errorf("cache: %w", err)
	}
	if m.failed, err = meter.Int64Counter("icp_agent_svids_failed",
		metric.WithDescription("SVIDs that were not issued, by cause")); err != nil {
		return m, fmt.Errorf("cache: %w", err)
	}
	if m.overdue, err = meter.Int64Counter("icp_agent_svids_overdue",
		metric.WithDescription("SVIDs that were close to their end without a successor")); err != nil {
		return m, fmt.Errorf("cache: %w", err)
	}
	return m, nil
}

// count counts one attempt to have an SVID issued.
func (m metrics) count(ctx context.Context, kind identity.Kind, err error) {
	of := attribute.String("kind", string(kind))
	if err == nil {
		m.issued.Add(ctx, 1, metric.WithAttributes(of))
		return
	}
	m.failed.Add(ctx, 1, metric.WithAttributes(of, attribute.String("cause", string(identity.CodeOf(err)))))
}
