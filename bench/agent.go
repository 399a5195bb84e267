package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/authsec-ai/icp/bench/internal/meter"
	"github.com/authsec-ai/icp/bench/internal/report"
	"github.com/authsec-ai/icp/e2e/stage"
)

// agent measures the Workload API of an icp-agent; this process is the workload.
func agent(t stage.T, o options, r *report.Report) error {
	ctx := t.Context()
	c, n := newHost(t, o).startNode()
	if _, err := c.entry(ctx, nodeName, "/workload", ownSelector()); err != nil {
		return err
	}
	w, err := newWorkload(n.socket)
	if err != nil {
		return err
	}
	defer w.close()
	if err := n.Await(patience, func() error { _, err := w.fetchX509(ctx); return err }); err != nil {
		return err
	}
	rec := recorder{r, "icp-agent, Workload API"}
	for range o.rounds {
		if err := w.measure(ctx, n.PID, o, rec); err != nil {
			return err
		}
	}
	return rec.memory("icp-agent", "≤ 30; SPIRE 45–55", n.PID, n.idle)
}

// workloadClient asks as the generated client does, with nothing in between.
type workloadClient struct {
	socket    string
	conn      *grpc.ClientConn
	audiences atomic.Int64
}

func newWorkload(socket string) (*workloadClient, error) {
	w := &workloadClient{socket: socket}
	var err error
	w.conn, err = w.dial()
	return w, err
}

func (w *workloadClient) dial() (*grpc.ClientConn, error) {
	return grpc.NewClient(w.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

func (w *workloadClient) close() { _ = w.conn.Close() } // nothing is lost

func (w *workloadClient) measure(ctx context.Context, pid int, o options, rec recorder) error {
	loop := meter.Loop{PID: pid, Callers: 1, Span: o.span()}
	for _, m := range []struct {
		what, aim string
		call      func(ctx context.Context) (int, error)
		latency   bool
	}{
		{"FetchX509SVID, open connection", "≤ 170; SPIRE 440–610", w.fetchX509, true},
		{"FetchX509SVID, new connection each time", "≤ 350; SPIRE 760–1,150", w.connectAndFetch, false},
		{"FetchJWTSVID, cached", "≤ 120; SPIRE 300–530", w.fetchJWT("bench"), false},
		{"FetchJWTSVID, new audience each time", "≤ 300; SPIRE 500–1,090", w.fetchNewJWT, false},
	} {
		loop.Call = func(int) (int, error) { return m.call(ctx) }
		got, err := loop.Run()
		if err != nil {
			return fmt.Errorf("%s: %w", m.what, err)
		}
		if err := rec.cpu(m.what, m.aim, got); err != nil {
			return err
		}
		if !m.latency {
			continue
		}
		if err := errors.Join(rec.latency(m.what, "SPIRE 0.67", "", got), rec.rate(m.what, "SPIRE 1,300–1,700", got)); err != nil {
			return err
		}
	}
	return nil
}

// withHeader adds what the Workload API asks of its callers.
func withHeader(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "workload.spiffe.io", "true")
}

func (w *workloadClient) fetchX509(ctx context.Context) (int, error) { return firstX509(ctx, w.conn) }

func (w *workloadClient) connectAndFetch(ctx context.Context) (int, error) {
	conn, err := w.dial()
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	return firstX509(ctx, conn)
}

// firstX509 opens a stream, takes its first answer and leaves.
func firstX509(ctx context.Context, conn *grpc.ClientConn) (int, error) {
	ctx, cancel := context.WithCancel(withHeader(ctx))
	defer cancel()
	stream, err := workload.NewSpiffeWorkloadAPIClient(conn).FetchX509SVID(ctx, &workload.X509SVIDRequest{})
	if err != nil {
		return 0, err
	}
	answer, err := stream.Recv()
	if err == nil && len(answer.Svids) == 0 {
		err = errors.New("answer without SVID")
	}
	return 1, err
}

func (w *workloadClient) fetchJWT(audience string) func(ctx context.Context) (int, error) {
	return func(ctx context.Context) (int, error) {
		answer, err := workload.NewSpiffeWorkloadAPIClient(w.conn).FetchJWTSVID(withHeader(ctx), &workload.JWTSVIDRequest{Audience: []string{audience}})
		if err == nil && len(answer.Svids) == 0 {
			err = errors.New("answer without SVID")
		}
		return 1, err
	}
}

func (w *workloadClient) fetchNewJWT(ctx context.Context) (int, error) {
	return w.fetchJWT(fmt.Sprintf("bench-%d", w.audiences.Add(1)))(ctx)
}
