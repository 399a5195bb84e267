package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/authsec-ai/icp/bench/internal/report"
	"github.com/authsec-ai/icp/e2e/stage"
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
	rows := map[string]report.Row{}
	for _, row := range readReport(t, file) {
		rows[row.What] = row
	}
	return rows
}

func readReport(t *testing.T, file string) []report.Row {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var saved struct{ Rows []report.Row }
	if err := json.Unmarshal(raw, &saved); err != nil {
		t.Fatal(err)
	}
	return saved.Rows
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

// TestMissing names what is missing and the command that brings it.
func TestMissing(t *testing.T) {
	const there = "/bin/true" // not started before the others are found
	for _, c := range []struct {
		section, bin string
		environment  map[string]string
		want         string
	}{
		{"agent", t.TempDir(), nil, "run 'make build'"},
		{"gateway", bin, map[string]string{"PATH": ""}, "nginx is not installed: run 'make deps'"},
		{"gateway", bin, map[string]string{"PATH": "", "ICP_TEST_NGINX": there}, "haproxy is not installed: run 'make deps'"},
		{"gateway", bin, map[string]string{"ICP_TEST_ENVOY": "/nowhere/envoy"}, "/nowhere/envoy: no such file or directory; run 'make deps'"},
	} {
		t.Run(c.want, func(t *testing.T) {
			for name, value := range c.environment {
				t.Setenv(name, value)
			}
			args := []string{"-short", "-only", c.section, "-bin", c.bin, "-json", filepath.Join(t.TempDir(), "bench.json")}
			var out, progress strings.Builder
			if err := run(t.Context(), args, nil, &out, &progress); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v; want one with %q", err, c.want)
			}
		})
	}
}

// TestMain lets the test binary be the other programs that bench is.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && slices.Contains([]string{loadCommand, targetCommand, peerCommand}, os.Args[1]) {
		main()
		return
	}
	os.Exit(m.Run())
}

// bin has our programs.
var bin = filepath.Join("..", "bin")

// TestGateways briefly measures every gateway, with a bench that is no slower
// for a race detector.
func TestGateways(t *testing.T) {
	dir := stage.Folder(t)
	bench, file := filepath.Join(dir, "bench"), filepath.Join(dir, "bench.json")
	stage.Output(t, exec.Command("go", "build", "-o", bench, "."))
	cmd := exec.Command(bench, "-short", "-only", "gateway", "-json", file)
	cmd.Dir = stage.Root(t)
	run := stage.Start(t, "bench", cmd)
	if err := run.Err(); err != nil {
		t.Fatalf("%v: %s", err, run.Tail(4096))
	}
	out := run.Tail(1 << 20)
	measured := map[string]int{} // gateway and column → workloads
	for _, row := range readReport(t, file) {
		if len(row.Values) != 1 || row.Min() <= 0 {
			t.Errorf("%s, %s, %s: %v; want one figure above 0", row.Section, row.What, row.Column, row.Values)
		}
		name, _, _ := strings.Cut(row.What, ", ")
		measured[name+" "+row.Column]++
	}
	for _, g := range gateways(t) {
		want := len(workloads(options{}))
		if g.onlyPosts {
			want = 1
		}
		if cpu, ratio, memory := measured[g.name+" CPU"], measured[g.name+" ÷ nginx"], measured[g.name+" peak"]; cpu != want || ratio != want || memory != 1 {
			t.Errorf("%s: CPU under %d loads, beside nginx %d times, memory %d times; want %d, %d and 1", g.name, cpu, ratio, memory, want, want)
		}
		if !strings.Contains(out, "checks: "+g.checks) || !strings.Contains(out, "\n| "+g.name) {
			t.Errorf("the report does not say what %s checks, or has no line of it:\n%s", g.name, out)
		}
	}
}

// TestJudge has the judge find out each gateway that does not do what it is said
// to do.
func TestJudge(t *testing.T) {
	b := newHost(t, options{bin: bin}).startGateways()
	if err := b.judge(); err != nil {
		t.Fatal(err)
	}
	for _, g := range b.gateways {
		for claim, lie := range map[string]func(g *runningGateway){
			"another ID of the trust domain": func(g *runningGateway) { g.checksID = !g.checksID },
			"the caller with another model":  func(g *runningGateway) { g.readsModel = !g.readsModel },
		} {
			liar := g
			lie(&liar)
			b.gateways = []runningGateway{liar}
			if err := b.judge(); err == nil || !strings.HasPrefix(err.Error(), g.name+", asked by "+claim) {
				t.Errorf("said to do otherwise, %s is judged: %v", g.name, err)
			}
		}
	}
}
