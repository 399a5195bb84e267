package meter_test

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/authsec-ai/icp/bench/internal/meter"
)

// TestCPUOfChildren has a child of a child burn time, and sees it whether the
// middle one has waited for it or not.
func TestCPUOfChildren(t *testing.T) {
	burn := "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"
	for name, script := range map[string]string{
		"ended":   "sh -c '" + burn + "'; echo; read -r _; true",
		"running": "sh -c '" + burn + "; echo; read -r _; true'; true",
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command("sh", "-c", script)
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if _, err := out.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			if cpu, err := meter.CPU(cmd.Process.Pid); err != nil || cpu < 10*time.Millisecond {
				t.Errorf("CPU %s, error %v; want the loop's", cpu, err)
			}
			in.Close()
			if err := cmd.Wait(); err != nil {
				t.Fatal(err)
			}
			if _, err := meter.CPU(cmd.Process.Pid); err == nil {
				t.Error("a process that has ended has a CPU time")
			}
		})
	}
}

func TestResident(t *testing.T) {
	m, err := meter.Resident(os.Getpid())
	if err != nil || m.RSS < 1 || m.Peak < m.RSS || m.Peak > 1<<20 {
		t.Fatalf("%+v MiB, error %v", m, err)
	}
}

func TestThreadCPU(t *testing.T) {
	idle := meter.ThreadCPU(func() { time.Sleep(50 * time.Millisecond) })
	busy := meter.ThreadCPU(func() {
		for end := time.Now().Add(200 * time.Millisecond); time.Now().Before(end); {
		}
	})
	if idle > 20*time.Millisecond || busy < 10*time.Millisecond || busy > 250*time.Millisecond {
		t.Errorf("asleep for 50 ms cost %s, busy for 200 ms %s", idle, busy)
	}
}

func TestQuantile(t *testing.T) {
	var l meter.Latencies
	if got := l.Quantile(0.5); got != 0 {
		t.Errorf("of nothing: %d", got)
	}
	for i := 100; i > 0; i-- {
		l = append(l, time.Duration(i))
	}
	if p50, p99, all := l.Quantile(0.5), l.Quantile(0.99), l.Quantile(1); p50 != 51 || p99 != 100 || all != 100 {
		t.Errorf("p50 %d, p99 %d, all %d", p50, p99, all)
	}
}

func TestFixedRate(t *testing.T) {
	l := meter.Loop{PID: os.Getpid(), Callers: 4, Span: 200 * time.Millisecond, Rate: 500,
		Call: func(int) (int, error) { return 1, nil }}
	got, err := l.Run()
	if err != nil {
		t.Fatal(err)
	}
	if due := int(got.Elapsed.Seconds()*500) + l.Callers; got.Operations < l.Callers || got.Operations > due {
		t.Errorf("%d calls in %s, of which %d were due", got.Operations, got.Elapsed, due)
	}
}

// TestLateCalls counts a call from when it was due, although the one before it
// had not returned.
func TestLateCalls(t *testing.T) {
	const takes = 20 * time.Millisecond
	l := meter.Loop{PID: os.Getpid(), Callers: 1, Span: 10 * takes, Rate: 500,
		Call: func(int) (int, error) { time.Sleep(takes); return 1, nil }}
	got, err := l.Run()
	if err != nil {
		t.Fatal(err)
	}
	if got.P99 < 2*takes {
		t.Errorf("p99 %s: the time that calls were late is not in it", got.P99)
	}
}
