package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/authsec-ai/icp/bench/internal/report"
)

// TestShortRun runs what needs no other program and reads both outputs.
func TestShortRun(t *testing.T) {
	file := filepath.Join(t.TempDir(), "sub", "bench.json")
	var out, progress strings.Builder
	err := run(t.Context(), []string{"-short", "-only", "floor,decision", "-rounds", "2", "-json", file}, nil, &out, &progress)
	if err != nil {
		t.Fatal(err)
	}
	rows := readRows(t, file)
	for _, what := range []string{
		"P-256 sign", "P-256 verify", "P-256 key generation", "CSR: parse and check its signature",
		"x509.CreateCertificate (checks what it signed)", "issue: CSR in, certificate out", "one decision",
	} {
		row, ok := rows[what]
		if !ok || len(row.Values) != 2 || row.Min() <= 0 || row.Median() < row.Min() {
			t.Errorf("%s: row %+v; want two figures above 0", what, row)
		}
		if !strings.Contains(out.String(), "\n| "+what+" | ") {
			t.Errorf("the table has no row %q", what)
		}
	}
	if rows["issue: CSR in, certificate out"].Min() < rows["P-256 sign"].Min() {
		t.Error("issuing costs less than the signature in it")
	}
	for _, fact := range []string{"- date: 2", "- commit: ", "- machine: ", "- Go: go1", "- load average before: "} {
		if !strings.Contains(out.String(), fact) {
			t.Errorf("the report does not have %q:\n%s", fact, out.String())
		}
	}
}

func readRows(t *testing.T, file string) map[string]report.Row {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var saved struct{ Rows []report.Row }
	if err := json.Unmarshal(raw, &saved); err != nil {
		t.Fatal(err)
	}
	rows := map[string]report.Row{}
	for _, row := range saved.Rows {
		rows[row.What] = row
	}
	return rows
}

func TestBadArguments(t *testing.T) {
	for name, args := range map[string][]string{
		"unknown section": {"-only", "floor,roof"},
		"more":            {"floor"},
		"rounds":          {"-rounds", "-1"},
		"flag":            {"-fast"},
	} {
		t.Run(name, func(t *testing.T) {
			var out, progress strings.Builder
			if err := run(t.Context(), args, nil, &out, &progress); err == nil {
				t.Errorf("accepted; printed %s", out.String())
			}
		})
	}
}

// TestMissing names the command that brings what is missing.
func TestMissing(t *testing.T) {
	for name, want := range map[string]string{"agent": "run 'make build'", "gateway": "nginx is not installed: run 'make deps'"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("PATH", "")
			args := []string{"-short", "-only", name, "-bin", t.TempDir(), "-json", filepath.Join(t.TempDir(), "bench.json")}
			var out, progress strings.Builder
			if err := run(t.Context(), args, nil, &out, &progress); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v; want one with %q", err, want)
			}
		})
	}
}
