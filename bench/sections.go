package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/authsec-ai/icp/bench/internal/report"
	"github.com/authsec-ai/icp/e2e/stage"
)

// section measures one part of the product.
type section struct {
	name string
	run  func(t stage.T, o options, r *report.Report) error
}

// sections lists them in the order of the table.
func sections() []section {
	return []section{
		{"floor", floor},
		{"decision", decision},
		{"sqlite", onSQLite},
		{"postgres", onPostgres},
		{"agent", agent},
		{"propagation", propagation},
		{"gateway", measureGateways},
	}
}

func names() []string {
	var names []string
	for _, s := range sections() {
		names = append(names, s.name)
	}
	return names
}

// measure runs the sections and prints the table, with what there is if one
// fails.
func measure(ctx context.Context, o options, out, progress io.Writer) error {
	r := report.New(facts(ctx))
	err := runSections(ctx, o, r, progress)
	r.Note(report.Fact{Name: "load average after", Value: loadAverage()})
	return errors.Join(err, r.Markdown(out), save(o.json, r))
}

func runSections(ctx context.Context, o options, r *report.Report, progress io.Writer) error {
	for _, s := range sections() {
		if !o.wants(s.name) {
			continue
		}
		begin := time.Now()
		fmt.Fprintf(progress, "bench: %s …\n", s.name)
		err := stage.Run(ctx, func(t *stage.Session) {
			if err := s.run(t, o, r); err != nil {
				t.Fatalf("%v", err)
			}
		})
		if err != nil {
			return fmt.Errorf("measure %s: %w", s.name, err)
		}
		fmt.Fprintf(progress, "bench: %s took %s\n", s.name, time.Since(begin).Round(time.Second))
	}
	return nil
}

func save(path string, r *report.Report) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("save the figures: %w", err)
	}
	file, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("save the figures: %w", err)
	}
	return errors.Join(r.JSON(file), file.Close())
}
