// Package conform holds the requirements that can be seen through a Workload
// API socket, one Row each, and runs them against any endpoint.
package conform

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// Level is how strongly the specification asks.
type Level string

// The levels.
const (
	Must   Level = "must"
	Should Level = "should"
	May    Level = "may"
)

// Row is one requirement.
type Row struct {
	ID    string
	Level Level
	Wants string // what the specification wants, in a line

	order order
	// check gives what it saw. An error is a failure and says what was seen
	// instead, but for needsControl and notSeen.
	check func(ctx context.Context, p *probe) (seen string, err error)
}

// order puts rows that change the caller's identity after those that look.
type order int

const (
	looks order = iota
	rotates
	revokes
)

// needsControl says which flag would let the row be seen.
type needsControl string

func (n needsControl) Error() string { return "needs " + string(n) }

// notSeen says what, though allowed, hides the row.
type notSeen string

func (n notSeen) Error() string { return string(n) }

// Rows lists all rows, in the order of the specifications.
func Rows() []Row {
	return slices.Concat(x509Rows(), jwtRows(), bundleRows(), endpointRows(), apiRows(), validateRows(), changeRows())
}

// Select gives the rows that the names choose: a name is a row's id, or the
// family before the dash. No name chooses all.
func Select(names []string) ([]Row, error) {
	all := Rows()
	if len(names) == 0 {
		return all, nil
	}
	chosen := map[string]bool{}
	for _, name := range names {
		found := false
		for _, row := range all {
			family, _, _ := strings.Cut(row.ID, "-")
			if row.ID == name || family == name {
				chosen[row.ID], found = true, true
			}
		}
		if !found {
			return nil, fmt.Errorf("there is no row %q; --list shows them", name)
		}
	}
	return slices.DeleteFunc(all, func(r Row) bool { return !chosen[r.ID] }), nil
}
