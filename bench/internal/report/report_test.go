package report_test

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/authsec-ai/icp/bench/internal/report"
)

func TestReport(t *testing.T) {
	r := report.New([]report.Fact{{Name: "date", Value: "today"}})
	fast := report.Figure{Section: "one", What: "fast", Unit: "µs", Aim: "less"}
	for _, v := range []float64{0.25, 12.34, 4} {
		add(t, r, fast, v)
	}
	add(t, r, report.Figure{Section: "two", What: "many", Unit: "/s"}, 1234.5)
	var text, raw strings.Builder
	if err := r.Markdown(&text); err != nil {
		t.Fatal(err)
	}
	if err := r.JSON(&raw); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"- date: today\n", "### one\n", "| fast | 0.250 | 4 | µs | less |\n", "### two\n", "| many | 1234 | 1234 | /s |  |\n"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in\n%s", want, text.String())
		}
	}
	var back struct{ Rows []report.Row }
	if err := json.Unmarshal([]byte(raw.String()), &back); err != nil || len(back.Rows) != 2 || len(back.Rows[0].Values) != 3 {
		t.Errorf("JSON %s, error %v", raw.String(), err)
	}
}

func TestNoMeasurement(t *testing.T) {
	r := report.New(nil)
	for _, v := range []float64{math.NaN(), math.Inf(1), -1} {
		if r.Add(report.Figure{Section: "one", What: "x"}, v) == nil {
			t.Errorf("%v passed", v)
		}
	}
	if len(r.Rows()) != 0 {
		t.Errorf("rows %v", r.Rows())
	}
}

func TestMedianOfTwo(t *testing.T) {
	if got := (report.Row{Values: []float64{3, 1}}).Median(); got != 2 {
		t.Errorf("got %v", got)
	}
}

func add(t *testing.T, r *report.Report, f report.Figure, v float64) {
	t.Helper()
	if err := r.Add(f, v); err != nil {
		t.Fatal(err)
	}
}

func TestMatrix(t *testing.T) {
	r := report.New(nil)
	r.Note(report.Fact{Name: "who", Value: "me"})
	cell := func(what, column, unit, aim string, v float64) {
		add(t, r, report.Figure{Section: "one", What: what, Column: column, Unit: unit, Aim: aim}, v)
	}
	cell("ours", "CPU", "µs", "less", 10)
	cell("theirs", "CPU", "µs", "", 5)
	cell("ours", "CPU", "µs", "less", 14)
	cell("ours", "÷ theirs", "×", "", 2)
	var text strings.Builder
	if err := r.Markdown(&text); err != nil {
		t.Fatal(err)
	}
	const want = `- who: me

### one

| min / median | CPU, µs | ÷ theirs, × | aim |
|---|---:|---:|---|
| ours | 10 / 12 | 2 | less |
| theirs | 5 |  |  |
`
	if text.String() != want {
		t.Errorf("got\n%s\nwant\n%s", text.String(), want)
	}
}
