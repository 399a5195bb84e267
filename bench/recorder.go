package main

import (
	"errors"
	"time"

	"github.com/authsec-ai/icp/bench/internal/meter"
	"github.com/authsec-ai/icp/bench/internal/report"
)

// recorder adds rows of one section.
type recorder struct {
	report  *report.Report
	section string
}

func (r recorder) add(what, unit, aim string, value float64) error {
	return r.report.Add(report.Figure{Section: r.section, What: what, Unit: unit, Aim: aim}, value)
}

// cell adds to a column of the line that what names.
func (r recorder) cell(what, column, unit, aim string, value float64) error {
	return r.report.Add(report.Figure{Section: r.section, What: what, Column: column, Unit: unit, Aim: aim}, value)
}

const cpuSuffix = ": CPU"

// cpu adds the CPU time of one operation.
func (r recorder) cpu(what, aim string, got meter.Result) error {
	return r.add(what+cpuSuffix, "µs", aim, got.PerOperation())
}

// latency adds p50 and p99 of one call.
func (r recorder) latency(what, aim50, aim99 string, got meter.Result) error {
	return errors.Join(
		r.add(what+": p50", "ms", aim50, milliseconds(got.P50)),
		r.add(what+": p99", "ms", aim99, milliseconds(got.P99)))
}

// rate adds operations per second.
func (r recorder) rate(what, aim string, got meter.Result) error {
	return r.add(what+": rate", "/s", aim, got.Rate())
}

// ratio adds how often a floor fits into the CPU time of an operation, both
// medians of this run. Without a floor in this run there is no ratio.
func (r recorder) ratio(what, floorStep, aim string) error {
	ours, ok := r.report.Find(r.section, what+cpuSuffix)
	base, measured := r.report.Find(floorSection, floorStep)
	if !ok || !measured {
		return nil
	}
	return r.add(what+": CPU ÷ floor's \""+floorStep+"\"", "×", aim, ours.Median()/base.Median())
}

// memory adds what a program holds idle, after the load, and at most.
func (r recorder) memory(program, aim string, pid int, idle meter.Memory) error {
	after, err := meter.Resident(pid)
	if err != nil {
		return err
	}
	return errors.Join(
		r.add(program+": resident, idle", "MiB", aim, idle.RSS),
		r.add(program+": resident, after the load", "MiB", "", after.RSS),
		r.add(program+": resident, peak", "MiB", "", after.Peak))
}

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1000 }
