package telemetry

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/metric"
)

func newTelemetry(t *testing.T) *Telemetry {
	t.Helper()
	tel, err := New("test", io.Discard, slog.LevelInfo)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tel.Close(context.Background()) })
	return tel
}

func get(tel *Telemetry, path string) (int, string) {
	w := httptest.NewRecorder()
	tel.Handler().ServeHTTP(w, httptest.NewRequest("GET", path, nil))
	return w.Code, w.Body.String()
}

func TestReadyOnlyWhenEveryCheckPasses(t *testing.T) {
	tel := newTelemetry(t)
	broken := errors.New("no route to the database")
	tel.AddCheck("store", func(context.Context) error { return broken })
	if status, body := get(tel, "/readyz"); status != 503 || !strings.Contains(body, "no route to the database") {
		t.Errorf("with a failing check: %d %s", status, body)
	}
	if status, _ := get(tel, "/healthz"); status != 200 {
		t.Errorf("a program that is not ready is still alive; /healthz gave %d", status)
	}
	broken = nil
	if status, body := get(tel, "/readyz"); status != 200 {
		t.Errorf("with a passing check: %d %s", status, body)
	}
}

// TestReadyAnswersInTime has a part that hangs, as a database does behind a
// firewall that drops: the answer comes, and names it.
func TestReadyAnswersInTime(t *testing.T) {
	tel := newTelemetry(t)
	tel.AddCheck("store", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
	if status, body := get(tel, "/readyz"); status != 503 || !strings.Contains(body, `"store"`) {
		t.Errorf("with a check that hangs: %d %s", status, body)
	}
}

func TestHistogramsInSecondsHaveBucketsForMilliseconds(t *testing.T) {
	tel := newTelemetry(t)
	h, err := tel.Meter.Float64Histogram("icp_test_duration", metric.WithUnit("s"))
	if err != nil {
		t.Fatal(err)
	}
	h.Record(context.Background(), 0.0007)
	_, body := get(tel, "/metrics")
	for _, line := range []string{`icp_test_duration_seconds_bucket{le="0.0005"} 0`, `icp_test_duration_seconds_bucket{le="0.001"} 1`} {
		if !strings.Contains(body, line) {
			t.Errorf("no line %q in\n%s", line, body)
		}
	}
}
