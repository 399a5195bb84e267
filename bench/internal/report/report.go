// Package report collects measured figures and writes them as Markdown and JSON.
package report

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"sync"
)

// Figure says what a number is. Figures with the same Section, What and Unit
// are one row.
type Figure struct {
	Section string `json:"section"`
	What    string `json:"what"`
	Unit    string `json:"unit"`          // "µs", "ms", "/s", "MiB", "×" …
	Aim     string `json:"aim,omitempty"` // what we want, and a peer's figure to hold beside
}

// Row is a figure with what each round measured.
type Row struct {
	Figure
	Values []float64 `json:"values"`
}

// Min gives the smallest value.
func (r Row) Min() float64 { return slices.Min(r.Values) }

// Median gives the middle value, the mean of two for an even number.
func (r Row) Median() float64 {
	sorted := slices.Sorted(slices.Values(r.Values))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

// Report is the outcome of one run. It is safe for concurrent use.
type Report struct {
	facts []Fact

	mu   sync.Mutex
	rows []*Row
}

// Fact is something that holds for the whole run, such as the date.
type Fact struct{ Name, Value string }

// New starts a report on a run.
func New(facts []Fact) *Report { return &Report{facts: facts} }

// Add notes one measured value. It refuses what is no measurement, so that a
// row never shows one.
func (r *Report) Add(f Figure, value float64) error {
	if math.IsNaN(value) || math.IsInf(value, 0) || value < 0 {
		return fmt.Errorf("%s, %s: %v is no measurement", f.Section, f.What, value)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, row := range r.rows {
		if row.Section == f.Section && row.What == f.What && row.Unit == f.Unit {
			row.Values = append(row.Values, value)
			return nil
		}
	}
	r.rows = append(r.rows, &Row{Figure: f, Values: []float64{value}})
	return nil
}

// Rows gives the rows so far, in the order in which they were first added.
func (r *Report) Rows() []Row {
	r.mu.Lock()
	defer r.mu.Unlock()
	rows := make([]Row, len(r.rows))
	for i, row := range r.rows {
		rows[i] = Row{Figure: row.Figure, Values: slices.Clone(row.Values)}
	}
	return rows
}

// Find gives the row of a figure, if something was measured for it.
func (r *Report) Find(section, what string) (Row, bool) {
	for _, row := range r.Rows() {
		if row.Section == section && row.What == what {
			return row, true
		}
	}
	return Row{}, false
}

// Markdown writes the facts and one table per section.
func (r *Report) Markdown(w io.Writer) error {
	var out strings.Builder
	for _, fact := range r.facts {
		fmt.Fprintf(&out, "- %s: %s\n", fact.Name, fact.Value)
	}
	section := ""
	for _, row := range r.Rows() {
		if row.Section != section {
			section = row.Section
			fmt.Fprintf(&out, "\n### %s\n\n| what | min | median | unit | aim, and who else |\n|---|---:|---:|---|---|\n", section)
		}
		fmt.Fprintf(&out, "| %s | %s | %s | %s | %s |\n", row.What, number(row.Min()), number(row.Median()), row.Unit, row.Aim)
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// number shows three digits that count.
func number(v float64) string {
	switch {
	case v == math.Trunc(v) && v < 1e6, v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

// JSON writes everything, each round's value included.
func (r *Report) JSON(w io.Writer) error {
	facts := map[string]string{}
	for _, fact := range r.facts {
		facts[fact.Name] = fact.Value
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(struct {
		Facts map[string]string `json:"facts"`
		Rows  []Row             `json:"rows"`
	}{facts, r.Rows()})
}
