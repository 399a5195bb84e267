// Package report collects measured figures and writes them as Markdown and JSON.
package report

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"sync"
)

// Figure says what a number is. Figures that differ in nothing but Aim are one
// row. In a section whose figures have a Column, What names a line of a table.
type Figure struct {
	Section string `json:"section"`
	What    string `json:"what"`
	Column  string `json:"column,omitempty"`
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
	mu    sync.Mutex
	facts []Fact
	rows  []*Row
}

// Fact is something that holds for the whole run, such as the date.
type Fact struct{ Name, Value string }

// New starts a report on a run.
func New(facts []Fact) *Report { return &Report{facts: facts} }

// Note adds a fact.
func (r *Report) Note(f Fact) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.facts = append(r.facts, f)
}

// Add notes one measured value. It refuses what is no measurement, so that a
// row never shows one.
func (r *Report) Add(f Figure, value float64) error {
	if math.IsNaN(value) || math.IsInf(value, 0) || value < 0 {
		return fmt.Errorf("%s, %s: %v is no measurement", f.Section, f.What, value)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, row := range r.rows {
		if row.Section == f.Section && row.What == f.What && row.Column == f.Column && row.Unit == f.Unit {
			row.Values = append(row.Values, value)
			return nil
		}
	}
	r.rows = append(r.rows, &Row{Figure: f, Values: []float64{value}})
	return nil
}

// Facts gives the facts so far.
func (r *Report) Facts() []Fact {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.facts)
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

// JSON writes everything, each round's value included.
func (r *Report) JSON(w io.Writer) error {
	facts := map[string]string{}
	for _, fact := range r.Facts() {
		facts[fact.Name] = fact.Value
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(struct {
		Facts map[string]string `json:"facts"`
		Rows  []Row             `json:"rows"`
	}{facts, r.Rows()})
}
