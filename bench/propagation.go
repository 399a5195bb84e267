package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"

	"github.com/authsec-ai/icp/bench/internal/meter"
	"github.com/authsec-ai/icp/bench/internal/report"
	"github.com/authsec-ai/icp/e2e/stage"
)

// propagation measures how soon a workload's open stream shows that an entry
// came or went.
func propagation(t stage.T, o options, r *report.Report) error {
	ctx := t.Context()
	c, n := newHost(t, o).startNode()
	if err := c.crowd(ctx, o.entries); err != nil {
		return err
	}
	if _, err := c.entry(ctx, nodeName, "/stays", ownSelector()); err != nil {
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
	rec := recorder{r, fmt.Sprintf("Propagation with %d other entries", o.entries)}
	for range o.rounds {
		if err := w.comeAndGo(ctx, c, o.pick(50, 5), rec); err != nil {
			return err
		}
	}
	return errors.Join(rec.memory("icp-agent", "", n.PID, n.idle), rec.memory("icp-server", "", c.PID, c.idle))
}

// crowd makes n entries for a user who does not exist here.
func (c *controlPlane) crowd(ctx context.Context, n int) error {
	const callers = 8
	return meter.Together(callers, func(caller int) error {
		for i := caller; i < n; i += callers {
			if _, err := c.entry(ctx, nodeName, fmt.Sprintf("/crowd/%d", i), "unix:uid:4000000000"); err != nil {
				return err
			}
		}
		return nil
	})
}

// comeAndGo makes and deletes an entry again and again and times both, from the
// beginning of the request to the stream's answer.
func (w *workloadClient) comeAndGo(ctx context.Context, c *controlPlane, times int, rec recorder) error {
	ctx, cancel := context.WithTimeout(withHeader(ctx), 10*time.Minute)
	defer cancel()
	stream, err := workload.NewSpiffeWorkloadAPIClient(w.conn).FetchX509SVID(ctx, &workload.X509SVIDRequest{})
	if err != nil {
		return err
	}
	var come, gone meter.Latencies
	for i := range times {
		path := fmt.Sprintf("/comes/%d", i)
		start := time.Now()
		made, err := c.entry(ctx, nodeName, path, ownSelector())
		if err == nil {
			err = awaitID(stream, workloadID(path), true)
		}
		come = append(come, time.Since(start))
		start = time.Now()
		if err == nil {
			err = c.admin.DeleteEntry(ctx, made.ID)
		}
		if err == nil {
			err = awaitID(stream, workloadID(path), false)
		}
		gone = append(gone, time.Since(start))
		if err != nil {
			return err
		}
	}
	const created, deleted = "entry created → workload has it", "entry deleted → workload has lost it"
	return errors.Join(
		rec.add(created+": p50", "ms", "SPIRE 4,000", milliseconds(come.Quantile(0.5))),
		rec.add(created+": p99", "ms", "< 250", milliseconds(come.Quantile(0.99))),
		rec.add(deleted+": p50", "ms", "SPIRE 5,200", milliseconds(gone.Quantile(0.5))),
		rec.add(deleted+": p99", "ms", "< 1,000", milliseconds(gone.Quantile(0.99))))
}

// awaitID reads answers until one has the ID, or (want is false) has it not.
func awaitID(stream interface {
	Recv() (*workload.X509SVIDResponse, error)
}, id string, want bool) error {
	for {
		answer, err := stream.Recv()
		if err != nil {
			return err
		}
		has := false
		for _, svid := range answer.Svids {
			has = has || svid.SpiffeId == id
		}
		if has == want {
			return nil
		}
	}
}
