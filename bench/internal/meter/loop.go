package meter

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

// Loop is callers who each make their next call when the last has returned or,
// at a fixed rate, when it is due, whichever is later.
type Loop struct {
	PID     int           // of the process under test
	Callers int           // at the same time
	Span    time.Duration // calls begin until then, after a quarter of it unmeasured; 0 means one call of each caller
	Rate    int           // calls per second of all callers together; 0 is as many as can be
	// Call makes one call as one of the callers, from 0, and gives the number
	// of operations in it.
	Call func(caller int) (operations int, err error)
}

// Result is what a Loop gave.
type Result struct {
	Operations int           `json:"operations"`
	Elapsed    time.Duration `json:"elapsed"`
	CPU        time.Duration `json:"cpu"` // of the process under test
	P50        time.Duration `json:"p50"` // of one call; at a fixed rate, from when it was due
	P99        time.Duration `json:"p99"`
}

// PerOperation gives the CPU time of one operation in µs.
func (r Result) PerOperation() float64 {
	return float64(r.CPU.Microseconds()) / float64(r.Operations)
}

// Rate gives operations per second.
func (r Result) Rate() float64 { return float64(r.Operations) / r.Elapsed.Seconds() }

// Run makes the calls. One that fails fails the measurement.
func (l Loop) Run() (Result, error) {
	if l.Span > 0 {
		if _, err := l.during(l.Span / 4); err != nil {
			return Result{}, fmt.Errorf("warm up: %w", err)
		}
	}
	return l.during(l.Span)
}

func (l Loop) during(span time.Duration) (Result, error) {
	tallies := make([]tally, l.Callers)
	before, err := CPU(l.PID)
	if err != nil {
		return Result{}, err
	}
	start := time.Now()
	err = Together(l.Callers, func(i int) error { return l.repeat(i, &tallies[i], start, start.Add(span)) })
	if err != nil {
		return Result{}, err
	}
	elapsed := time.Since(start)
	after, err := CPU(l.PID)
	if err != nil {
		return Result{}, err
	}
	return sum(tallies, elapsed, after-before)
}

func (l Loop) repeat(caller int, t *tally, start, end time.Time) error {
	for call := 0; ; call++ {
		begin := l.await(caller, call, start)
		n, err := l.Call(caller)
		if err != nil {
			return err
		}
		t.operations += n
		t.latencies = append(t.latencies, time.Since(begin))
		if l.Span == 0 || !time.Now().Before(end) {
			return nil
		}
	}
}

// await gives the time from which a call counts, and returns then. The callers
// of a fixed rate take turns, evenly.
func (l Loop) await(caller, call int, start time.Time) time.Time {
	if l.Rate == 0 {
		return time.Now()
	}
	turn := time.Duration(call*l.Callers + caller)
	due := start.Add(turn * time.Second / time.Duration(l.Rate))
	time.Sleep(time.Until(due))
	return due
}

// tally is what one caller did.
type tally struct {
	operations int
	latencies  Latencies
}

func sum(tallies []tally, elapsed, cpu time.Duration) (Result, error) {
	var all Latencies
	r := Result{Elapsed: elapsed, CPU: cpu}
	for _, t := range tallies {
		r.Operations += t.operations
		all = append(all, t.latencies...)
	}
	if r.Operations == 0 {
		return Result{}, errors.New("nothing was answered")
	}
	r.P50, r.P99 = all.Quantile(0.5), all.Quantile(0.99)
	return r, nil
}

// Together runs f for each of n callers at once and gives the first one's error.
func Together(n int, f func(caller int) error) error {
	errs := make([]error, n)
	var running sync.WaitGroup
	for i := range n {
		running.Go(func() { errs[i] = f(i) })
	}
	running.Wait()
	for i, err := range errs {
		if err != nil {
			return fmt.Errorf("caller %d of %d: %w", i+1, n, err)
		}
	}
	return nil
}
