package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/authsec-ai/icp/bench/internal/load"
	"github.com/authsec-ai/icp/bench/internal/meter"
	"github.com/authsec-ai/icp/bench/internal/report"
	"github.com/authsec-ai/icp/bench/internal/target"
)

// gateway measures agentauth-proxy and nginx in turns, in front of the same API
// and under the same load.
func gateway(ctx context.Context, o options, r *report.Report) error {
	h, err := newHost(o)
	if err != nil {
		return err
	}
	defer h.close()
	b, err := h.startGateways(ctx)
	if err != nil {
		return err
	}
	rec := recorder{r, "Gateways: TLS 1.3, P-256, client certificate verified"}
	for round := range o.rounds {
		for _, w := range workloads(o) {
			if err := b.compare(ctx, w, round, rec); err != nil {
				return fmt.Errorf("%s: %w", w.what, err)
			}
		}
	}
	for _, g := range b.gateways {
		if err := rec.memory(g.name, "", g.pid, g.idle); err != nil {
			return err
		}
	}
	return nil
}

// A gatewayWorkload is a load that each gateway gets.
type gatewayWorkload struct {
	what string
	aim  string // of our CPU time divided by nginx's
	load.Config
}

const chatBytes = 64 << 10

func workloads(o options) []gatewayWorkload {
	plain := load.Config{Path: target.Plain, WarmPath: target.Plain, Duration: o.span()}
	shaped := func(shape string, connections, streams int) load.Config {
		c := plain
		c.Shape, c.Connections, c.Streams = shape, connections, streams
		return c
	}
	events := shaped(load.SSE, o.pick(500, 100), 0)
	events.Path, events.Duration = target.StreamPath(o.pick(100, 20), o.pick(100, 20)), 0
	chat := shaped(load.HTTP1, 16, 0)
	chat.Path, chat.Body = target.Chat, chatBody(chatBytes)
	return []gatewayWorkload{
		{"HTTP/1.1, 64 connections, 1 KiB", "≤ 1.9, then 1.5, then 1.1", shaped(load.HTTP1, 64, 0)},
		{"HTTP/2, 8 connections × 16 streams, 1 KiB", "≤ 2.1, then 1.6", shaped(load.HTTP2, 8, 16)},
		{"full handshake and one request", "≤ 0.6", shaped(load.Handshake, 8, 0)},
		{fmt.Sprintf("one server-sent event, %d streams", events.Connections), "≤ 0.85", events},
		{"64 KiB POST; ours reads the model", "", chat},
	}
}

// chatBody is a request of about that many bytes whose model stands at its end.
func chatBody(size int) string {
	return `{"messages":[{"role":"user","content":"` + strings.Repeat("word ", size/5) + `"}],"model":"` + allowedModel + `"}`
}

// compare loads one gateway after the other; who is first changes by round.
func (b *battery) compare(ctx context.Context, w gatewayWorkload, round int, rec recorder) error {
	cost := map[string]float64{}
	for i := range b.gateways {
		g := b.gateways[(i+round)%len(b.gateways)]
		got, err := b.load(ctx, g, w.Config)
		if err != nil {
			return fmt.Errorf("%s: %w", g.name, err)
		}
		cost[g.name] = got.PerOperation()
		if err := b.note(w, g, got, rec); err != nil {
			return err
		}
	}
	if cost[nginxName] == 0 {
		return errors.New("nginx used no CPU time that could be measured; measure for longer")
	}
	return rec.add(w.what+": CPU, ours ÷ nginx's", "×", w.aim, cost[proxyName]/cost[nginxName])
}

func (b *battery) note(w gatewayWorkload, g runningGateway, got meter.Result, rec recorder) error {
	what := w.what + ": " + g.name
	if err := rec.cpu(what, "", got); err != nil || w.Shape == load.SSE {
		return err // how long a stream takes is up to the API behind
	}
	return errors.Join(rec.rate(what, "", got), rec.add(what+": p99", "ms", "", milliseconds(got.P99)))
}

// load runs the load generator in a process of its own.
func (b *battery) load(ctx context.Context, g runningGateway, cfg load.Config) (meter.Result, error) {
	cfg.PID, cfg.Gateway, cfg.GatewayID = g.pid, g.address, g.id
	cfg.CertFile, cfg.KeyFile, cfg.BundleFile = b.client.cert, b.client.key, b.client.bundle
	in, err := json.Marshal(cfg)
	if err != nil {
		return meter.Result{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	self, err := os.Executable()
	if err != nil {
		return meter.Result{}, err
	}
	cmd := exec.CommandContext(ctx, self, loadCommand)
	cmd.Stdin = bytes.NewReader(in)
	out, err := b.output(cmd)
	if err != nil {
		return meter.Result{}, err
	}
	var got meter.Result
	if err := json.Unmarshal(out, &got); err != nil {
		return meter.Result{}, fmt.Errorf("load generator printed %q: %w", out, err)
	}
	return got, nil
}
