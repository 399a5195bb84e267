package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/authsec-ai/icp/bench/internal/load"
	"github.com/authsec-ai/icp/bench/internal/meter"
	"github.com/authsec-ai/icp/bench/internal/report"
	"github.com/authsec-ai/icp/bench/internal/target"
	"github.com/authsec-ai/icp/e2e/stage"
)

// measureGateways measures agentauth-proxy and others in turns, in front of the
// same API and under the same load.
func measureGateways(t stage.T, o options, r *report.Report) error {
	b := newHost(t, o).startGateways()
	if err := b.judge(); err != nil {
		return err
	}
	for _, g := range b.gateways {
		r.Note(report.Fact{Name: g.name + " " + g.version + " checks", Value: g.checks})
	}
	for round := range o.rounds {
		for _, w := range workloads(o) {
			if err := b.compare(w, round, recorder{r, "Gateways: " + w.what}); err != nil {
				return fmt.Errorf("%s: %w", w.what, err)
			}
		}
	}
	return b.noteMemory(recorder{r, "Gateways: resident memory"})
}

// A gatewayWorkload is a load that each gateway gets.
type gatewayWorkload struct {
	what string
	aim  string   // of ours
	over []string // gateways by whose CPU time the others' is divided
	load.Config
}

const (
	chatBytes = 64 << 10
	fixedRate = 3000 // requests per second
)

func workloads(o options) []gatewayWorkload {
	plain := load.Config{Path: target.Plain, WarmPath: target.Plain, Duration: o.span()}
	shaped := func(shape string, connections, streams int) load.Config {
		c := plain
		c.Shape, c.Connections, c.Streams = shape, connections, streams
		return c
	}
	many := o.pick(64, 16)
	paced := shaped(load.HTTP1, many, 0)
	paced.Rate = fixedRate
	events := shaped(load.SSE, o.pick(500, 48), 0)
	events.Path, events.Duration = target.StreamPath(o.pick(100, 50), o.pick(100, 10)), 0
	chat := shaped(load.HTTP1, 16, 0)
	chat.Path, chat.Body = target.Chat, chatBody(chatBytes, allowedModel)
	over := []string{nginxName}
	return []gatewayWorkload{
		{fmt.Sprintf("HTTP/1.1, %d connections, 1 KiB", many), "÷ nginx ≤ 1.9, then 1.5, then 1.1; CPU ≤ Envoy's", over, shaped(load.HTTP1, many, 0)},
		{fmt.Sprintf("HTTP/1.1 at %d/s, %d connections, 1 KiB", fixedRate, many), "", over, paced},
		{"HTTP/2, 8 connections × 16 streams, 1 KiB", "÷ nginx ≤ 2.1, then 1.6", over, shaped(load.HTTP2, 8, 16)},
		{"full handshake and one request", "÷ nginx ≤ 0.6", over, shaped(load.Handshake, 8, 0)},
		{"resumed handshake and one request", "÷ nginx ≤ 0.35", over, shaped(load.Resumed, 8, 0)},
		{fmt.Sprintf("one server-sent event, %d streams", events.Connections), "÷ nginx ≤ 0.85; CPU ≤ Envoy's", over, events},
		{"64 KiB POST", "÷ " + readerName + " ≤ 1.5, then 1.1", append(over, readerName), chat},
	}
}

// chatBody is a request of about that many bytes whose model stands at its end.
func chatBody(size int, model string) string {
	return `{"messages":[{"role":"user","content":"` + strings.Repeat("word ", size/5) + `"}],"model":"` + model + `"}`
}

// compare loads one gateway after the other; who is first changes by round.
func (b *battery) compare(w gatewayWorkload, round int, rec recorder) error {
	cost := map[string]float64{}
	turns := b.under(w)
	for i := range turns {
		g := turns[(i+round)%len(turns)]
		got, err := b.load(g, w.Config)
		if err != nil {
			return fmt.Errorf("%s: %w", g.name, err)
		}
		cost[g.name] = got.PerOperation()
		if err := w.note(g, got, rec); err != nil {
			return err
		}
	}
	for _, base := range w.over {
		if cost[base] == 0 {
			return fmt.Errorf("%s used no CPU time that could be measured; measure for longer", base)
		}
		for _, g := range turns {
			if err := rec.cell(w.label(g), "÷ "+base, "×", "", cost[g.name]/cost[base]); err != nil {
				return err
			}
		}
	}
	return nil
}

// under gives the gateways that a load is for.
func (b *battery) under(w gatewayWorkload) []runningGateway {
	return slices.DeleteFunc(slices.Clone(b.gateways), func(g runningGateway) bool { return g.onlyPosts && w.Body == "" })
}

// label names a gateway's line; of a POST it says what some do and some do not.
func (w gatewayWorkload) label(g runningGateway) string {
	switch {
	case w.Body == "":
		return g.name
	case g.readsModel:
		return g.name + ", reads the model"
	}
	return g.name + ", model not read"
}

func (w gatewayWorkload) note(g runningGateway, got meter.Result, rec recorder) error {
	aim := ""
	if g.name == oursName {
		aim = w.aim
	}
	name := w.label(g)
	if err := rec.cell(name, "CPU", "µs", aim, got.PerOperation()); err != nil || w.Shape == load.SSE {
		return err // how long a stream takes is up to the API behind
	}
	return errors.Join(
		rec.cell(name, "rate", "/s", "", got.Rate()),
		rec.cell(name, "p50", "ms", "", milliseconds(got.P50)),
		rec.cell(name, "p99", "ms", "", milliseconds(got.P99)))
}

func (b *battery) noteMemory(rec recorder) error {
	for _, g := range b.gateways {
		after, err := meter.Resident(g.pid)
		if err != nil {
			return err
		}
		if err := errors.Join(
			rec.cell(g.name, "idle", "MiB", "", g.idle.RSS),
			rec.cell(g.name, "after the load", "MiB", "", after.RSS),
			rec.cell(g.name, "peak", "MiB", "", after.Peak)); err != nil {
			return err
		}
	}
	return nil
}

// load runs the load generator in a process of its own.
func (b *battery) load(g runningGateway, cfg load.Config) (meter.Result, error) {
	cfg.PID, cfg.Gateway, cfg.GatewayID = g.pid, g.address, g.id()
	if cfg.Shape == load.Resumed {
		cfg.Gateway = g.resumes
	}
	cfg.CertFile, cfg.KeyFile, cfg.BundleFile = b.caller.Cert, b.caller.Key, b.caller.Bundle
	ctx, cancel := context.WithTimeout(b.t.Context(), 5*time.Minute)
	defer cancel()
	out, err := b.output(selfCommand(ctx, b.t, loadCommand, cfg))
	if err != nil {
		return meter.Result{}, err
	}
	var got meter.Result
	if err := json.Unmarshal(out, &got); err != nil {
		return meter.Result{}, fmt.Errorf("load generator printed %q: %w", out, err)
	}
	return got, nil
}

// output runs a load generator to its end and gives what it printed.
func (b *battery) output(cmd *exec.Cmd) ([]byte, error) {
	var out bytes.Buffer
	cmd.Stdout = &out
	p, err := stage.Launch("load", b.dir, cmd)
	if err != nil {
		return nil, err
	}
	if err := p.Err(); err != nil {
		return nil, fmt.Errorf("load generator: %w: %s", err, p.Tail(1024))
	}
	return out.Bytes(), nil
}
