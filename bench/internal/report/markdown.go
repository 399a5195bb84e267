package report

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// Markdown writes the facts and one table per section.
func (r *Report) Markdown(w io.Writer) error {
	var out strings.Builder
	for _, fact := range r.Facts() {
		fmt.Fprintf(&out, "- %s: %s\n", fact.Name, fact.Value)
	}
	for rows := r.Rows(); len(rows) > 0; {
		end := slices.IndexFunc(rows, func(row Row) bool { return row.Section != rows[0].Section })
		if end < 0 {
			end = len(rows)
		}
		fmt.Fprintf(&out, "\n### %s\n\n", rows[0].Section)
		if rows[0].Column == "" {
			list(&out, rows[:end])
		} else {
			matrix(&out, rows[:end])
		}
		rows = rows[end:]
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// list writes a line for each row.
func list(out *strings.Builder, rows []Row) {
	out.WriteString("| what | min | median | unit | aim, and who else |\n|---|---:|---:|---|---|\n")
	for _, row := range rows {
		fmt.Fprintf(out, "| %s | %s | %s | %s | %s |\n", row.What, number(row.Min()), number(row.Median()), row.Unit, row.Aim)
	}
}

// matrix writes a line for each What, with minimum and median in each column.
func matrix(out *strings.Builder, rows []Row) {
	var names, heads []string
	for _, row := range rows {
		names, heads = with(names, row.What), with(heads, head(row))
	}
	fmt.Fprintf(out, "| min / median | %s | aim |\n|---|%s---|\n", strings.Join(heads, " | "), strings.Repeat("---:|", len(heads)))
	for _, name := range names {
		cells, aims := make([]string, len(heads)), []string(nil)
		for _, row := range rows {
			if row.What != name {
				continue
			}
			cells[slices.Index(heads, head(row))] = row.span()
			if row.Aim != "" {
				aims = with(aims, row.Aim)
			}
		}
		fmt.Fprintf(out, "| %s | %s | %s |\n", name, strings.Join(cells, " | "), strings.Join(aims, "; "))
	}
}

// head names a row's column.
func head(row Row) string { return row.Column + ", " + row.Unit }

// with adds what is not in the list.
func with(list []string, item string) []string {
	if slices.Contains(list, item) {
		return list
	}
	return append(list, item)
}

// span gives minimum and median, or the one figure that both are.
func (r Row) span() string {
	low, middle := number(r.Min()), number(r.Median())
	if low == middle {
		return middle
	}
	return low + " / " + middle
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
