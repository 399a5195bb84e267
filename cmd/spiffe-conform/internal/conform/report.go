package conform

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
)

// WriteTable prints a line for each row; a failure gets a second one, with what
// the specification wants.
func WriteTable(w io.Writer, results []Result) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range results {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", r.Outcome, r.ID, r.Level, r.Seen)
		if r.Outcome != Passed {
			fmt.Fprintf(table, "\t\t\tthe specification: %s\n", r.Wants)
		}
	}
	fmt.Fprintf(table, "\n%d passed, %d failed, %d need control, %d not seen\n",
		Count(results, Passed), Count(results, Failed), Count(results, NeedsControl), Count(results, NotSeen))
	return table.Flush()
}

// WriteJSON prints the results as one document.
func WriteJSON(w io.Writer, socket string, results []Result) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(struct {
		Socket       string   `json:"socket"`
		Passed       int      `json:"passed"`
		Failed       int      `json:"failed"`
		NeedsControl int      `json:"needs_control"`
		NotSeen      int      `json:"not_seen"`
		Rows         []Result `json:"rows"`
	}{socket, Count(results, Passed), Count(results, Failed), Count(results, NeedsControl), Count(results, NotSeen), results})
}

// WriteList prints what the rows are about.
func WriteList(w io.Writer, rows []Row) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		fmt.Fprintf(table, "%s\t%s\t%s\n", r.ID, r.Level, r.Wants)
	}
	return table.Flush()
}
