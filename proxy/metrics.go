package proxy

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// metrics are the proxy's instruments. Their attributes take values from
// configuration and constants only, never from a request.
type metrics struct {
	decisions  metric.Int64Counter
	durations  metric.Float64Histogram
	handshakes metric.Int64Counter
	dropped    metric.Int64Counter

	mu   sync.Mutex
	sets map[series]metric.MeasurementOption
}

// series names one time series of decisions.
type series struct{ service, outcome, reason string }

// gauges are read when metrics are collected.
type gauges struct {
	connections func() int64
	running     func() int64
	svidSeconds func() float64 // until the proxy's SVID expires, negative afterwards
	revision    func() int64   // of the policies in force
}

func newMetrics(meter metric.Meter, read gauges) (*metrics, error) {
	m := &metrics{sets: map[series]metric.MeasurementOption{}}
	var errs [9]error
	m.decisions, errs[0] = meter.Int64Counter("icp.proxy.decisions",
		metric.WithDescription("Requests by service, outcome and reason."))
	m.durations, errs[1] = meter.Float64Histogram("icp.proxy.request.duration", metric.WithUnit("s"),
		metric.WithDescription("Time from a request's arrival to the end of its answer."))
	m.handshakes, errs[2] = meter.Int64Counter("icp.proxy.handshakes.refused",
		metric.WithDescription("TLS handshakes refused, by reason."))
	m.dropped, errs[3] = meter.Int64Counter("icp.proxy.audit.dropped",
		metric.WithDescription("Audit lines lost because the sink was full or failed."))
	_, errs[4] = meter.Int64ObservableGauge("icp.proxy.connections",
		metric.WithDescription("Live client connections."), observe(read.connections))
	_, errs[5] = meter.Int64ObservableGauge("icp.proxy.requests.running",
		metric.WithDescription("Requests and streams under way."), observe(read.running))
	_, errs[6] = meter.Int64ObservableGauge("icp.proxy.policy.revision",
		metric.WithDescription("Revision of the policies in force."), observe(read.revision))
	_, errs[7] = meter.Float64ObservableGauge("icp.proxy.svid.expires", metric.WithUnit("s"),
		metric.WithDescription("Seconds until the proxy's own SVID expires."),
		metric.WithFloat64Callback(func(_ context.Context, o metric.Float64Observer) error {
			o.Observe(read.svidSeconds())
			return nil
		}))
	return m, errors.Join(errs[:]...)
}

func observe(read func() int64) metric.Int64ObservableGaugeOption {
	return metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
		o.Observe(read())
		return nil
	})
}

func (m *metrics) decision(s series, took time.Duration) {
	set := m.set(s)
	m.decisions.Add(context.Background(), 1, set)
	m.durations.Record(context.Background(), took.Seconds(), set)
}

// set gives the attributes of a series, made once.
func (m *metrics) set(s series) metric.MeasurementOption {
	m.mu.Lock()
	defer m.mu.Unlock()
	set, ok := m.sets[s]
	if !ok {
		set = metric.WithAttributeSet(attribute.NewSet(attribute.String("service", s.service),
			attribute.String("outcome", s.outcome), attribute.String("reason", s.reason)))
		m.sets[s] = set
	}
	return set
}

func (m *metrics) handshakeRefused(reason string) {
	m.handshakes.Add(context.Background(), 1, metric.WithAttributes(attribute.String("reason", reason)))
}

func (m *metrics) auditDropped() { m.dropped.Add(context.Background(), 1) }
