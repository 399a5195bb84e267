// Package load is a load generator for gateways: a fixed number of callers, each
// of which sends its next request when the last is answered or, at a fixed rate,
// when it is due. It runs in a process of its own and reads the CPU time of the
// process under test around the measured part.
package load

import (
	"context"
	"fmt"
	"time"

	"github.com/authsec-ai/icp/bench/internal/meter"
)

// Shapes of load.
const (
	HTTP1     = "http1"     // one request after the other on each connection
	HTTP2     = "http2"     // Streams callers share each connection
	Handshake = "handshake" // full handshake, one request, connection closed
	Resumed   = "resumed"   // the same with the session of the connection before
	SSE       = "sse"       // one stream of server-sent events on each connection, once
)

// Config is one measurement.
type Config struct {
	Shape       string        `json:"shape"`
	PID         int           `json:"pid"`      // of the process under test
	Gateway     string        `json:"gateway"`  // host:port
	GatewayID   string        `json:"id"`       // SPIFFE ID that it must show
	CertFile    string        `json:"cert"`     // PEM: what the callers show
	KeyFile     string        `json:"key"`      // PEM
	BundleFile  string        `json:"bundle"`   // PEM: anchors of the gateway's trust domain
	Path        string        `json:"path"`     // with the query
	Body        string        `json:"body"`     // "" for GET, else it is sent by POST
	WarmPath    string        `json:"warm"`     // answered before the measured part, by GET
	Connections int           `json:"conns"`    // HTTP/2: each with Streams callers; Handshake, Resumed: callers
	Streams     int           `json:"streams"`  // HTTP2 only
	Rate        int           `json:"rate"`     // requests per second; 0 is as many as are answered
	Duration    time.Duration `json:"duration"` // of the measured part; 0 for SSE
}

// caller sends requests one at a time.
type caller interface {
	// warm sends one request that is not measured.
	warm(ctx context.Context) error
	// call sends one request and reads the whole answer; it gives the number of
	// operations in it.
	call(ctx context.Context) (int, error)
	close()
}

// Run measures. An operation is one answer or, of SSE, one event. One failed
// request fails the measurement.
func Run(ctx context.Context, cfg Config) (meter.Result, error) {
	callers, err := newCallers(cfg)
	if err != nil {
		return meter.Result{}, err
	}
	defer func() {
		for _, c := range callers {
			c.close()
		}
	}()
	if err := meter.Together(len(callers), func(i int) error { return callers[i].warm(ctx) }); err != nil {
		return meter.Result{}, fmt.Errorf("first requests: %w", err)
	}
	return meter.Loop{PID: cfg.PID, Callers: len(callers), Rate: cfg.Rate, Span: cfg.Duration,
		Call: func(i int) (int, error) { return callers[i].call(ctx) }}.Run()
}
