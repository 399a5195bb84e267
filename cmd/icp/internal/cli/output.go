package cli

// What goes to the terminal, for every command:
//
//  1. stdout carries the result and nothing else, so that it can be piped. Notes
//     and errors go to stderr. No prompts, colours, progress bars or cursor
//     movement: a pipe and a terminal get the same bytes.
//  2. A failure is one line on stderr, "icp: what was wrong; what to do", and an
//     exit code from the list in `icp --help`.
//  3. A table has one header line in capitals. An empty one prints nothing but a
//     note on stderr.
//  4. With --output json, stdout holds one JSON document (`icp api watch`: one a
//     line), with the field names of the REST API.
//  5. A secret is printed once, by the command that creates it, alone on stdout.
//     No other message holds one.
//  6. Text from elsewhere is quoted if it has characters that a terminal would
//     obey.
//  7. Times are UTC in RFC 3339, durations as Go writes them, lists joined by
//     commas.

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/cobra"
)

// format is the value of --output.
type format string

const (
	asTable format = "table"
	asJSON  format = "json"
)

// String, Set and Type make a format a flag that accepts what it knows.
func (f *format) String() string { return string(*f) }

// Set accepts "table" and "json".
func (f *format) Set(s string) error {
	if format(s) != asTable && format(s) != asJSON {
		return fmt.Errorf("choose %s or %s", asTable, asJSON)
	}
	*f = format(s)
	return nil
}

// Type names the value in help texts.
func (f *format) Type() string { return "table|json" }

// table is what a list of things looks like.
type table struct {
	header []string
	rows   [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// list prints items as JSON, or as t with what for a note when it is empty.
func (a *app) list(cmd *cobra.Command, items any, what string, t table) error {
	if a.output == asJSON {
		return writeJSON(cmd.OutOrStdout(), items)
	}
	if len(t.rows) == 0 {
		a.note(cmd, "no %s", what)
		return nil
	}
	return writeTable(cmd.OutOrStdout(), append([][]string{t.header}, t.rows...))
}

// show prints one thing as JSON, or as lines of name and value; a pair without
// value is left out.
func (a *app) show(cmd *cobra.Command, thing any, pairs ...[2]string) error {
	if a.output == asJSON {
		return writeJSON(cmd.OutOrStdout(), thing)
	}
	var rows [][]string
	for _, p := range pairs {
		if p[1] != "" {
			rows = append(rows, []string{p[0], p[1]})
		}
	}
	return writeTable(cmd.OutOrStdout(), rows)
}

// note tells something that is not the result.
func (a *app) note(cmd *cobra.Command, format string, args ...any) {
	fmt.Fprintln(cmd.ErrOrStderr(), safe(fmt.Sprintf(format, args...)))
}

func writeTable(w io.Writer, rows [][]string) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = safe(cell)
			if cell == "" {
				cells[i] = "-"
			}
		}
		if _, err := fmt.Fprintln(tw, strings.Join(cells, "\t")); err != nil {
			return err
		}
	}
	return tw.Flush()
}

func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// safe quotes text that a terminal would not show as it is.
func safe(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}

func timeText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

func durationText(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}

func joined[T any](list []T) string {
	texts := make([]string, len(list))
	for i, item := range list {
		texts[i] = fmt.Sprint(item)
	}
	return strings.Join(texts, ",")
}
