package api_test

import (
	"database/sql"
	"fmt"
	"sort"
	"strings"
	"testing"
)

// dump gives every row of every table of the store, without the audit trail and
// the number of its last event, which denials move.
func (w *world) dump() string {
	w.t.Helper()
	db := must(sql.Open("sqlite", "file:"+w.dbPath+"?mode=ro"))(w.t)
	defer db.Close()
	var out []string
	for _, table := range tables(w.t, db) {
		if table != "audit_events" {
			out = append(out, rowsOf(w.t, db, table)...)
		}
	}
	return strings.Join(out, "\n")
}

func tables(t testing.TB, db *sql.DB) []string {
	t.Helper()
	rows := must(db.Query(`SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name`))(t)
	defer rows.Close()
	var names []string
	for rows.Next() {
		var name string
		check(t, rows.Scan(&name))
		names = append(names, name)
	}
	check(t, rows.Err())
	return names
}

func rowsOf(t testing.TB, db *sql.DB, table string) []string {
	t.Helper()
	rows := must(db.Query(`SELECT * FROM ` + table))(t)
	defer rows.Close()
	columns := must(rows.Columns())(t)
	var lines []string
	for rows.Next() {
		values, targets := make([]any, len(columns)), make([]any, len(columns))
		for i := range values {
			targets[i] = &values[i]
		}
		check(t, rows.Scan(targets...))
		line := table
		for i, column := range columns {
			if table == "counters" && column == "seq" {
				continue
			}
			line += fmt.Sprintf(" %s=%q", column, fmt.Sprint(values[i]))
		}
		lines = append(lines, line)
	}
	check(t, rows.Err())
	sort.Strings(lines)
	return lines
}
