package project

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// rowsOfPage are the rows that docs/requirements-status.md has to list: by kind,
// how many there are and with how many digits their numbers are written.
var rowsOfPage = []struct {
	kind          string
	count, digits int
}{
	{"CA", 10, 1}, {"SV", 16, 1}, {"NA", 11, 1}, {"WA", 17, 1}, {"AG", 16, 1}, {"SD", 5, 1}, {"SK", 15, 1}, {"PX", 13, 1},
	{"TK", 8, 1}, {"DB", 4, 1}, {"RV", 4, 1}, {"AU", 6, 1}, {"OB", 5, 1}, {"DP", 8, 1}, {"HA", 5, 1}, {"PF", 5, 1},
	{"SC", 5, 1}, {"TH", 7, 1}, {"B", 12, 1}, {"X", 12, 1},
	{"ID", 25, 2}, {"X509", 29, 2}, {"JWT", 21, 2}, {"TDB", 15, 2}, {"WLEP", 19, 2}, {"WLAPI", 28, 2}, {"FED", 21, 2},
	{"V", 80, 2}, {"P", 72, 1}, {"T", 55, 2}, {"IS", 13, 2},
}

var statusRow = regexp.MustCompile(`(?m)^\| ([A-Z0-9]+-\d+) \| (?:[^|]*\| )?(proven|partly|open) \| ([^|]*)\| ([^|]*)\|$`)

// TestRequirementsStatus checks that the page lists every row once, that every
// test it names exists, and that nothing is called proven without a test.
func TestRequirementsStatus(t *testing.T) {
	tr := readTree(t)
	seen := map[string]bool{}
	for _, row := range statusRow.FindAllStringSubmatch(readPage(t, "docs/requirements-status.md"), -1) {
		id, status, tests, missing := row[1], row[2], row[3], strings.TrimSpace(row[4])
		if seen[id] {
			t.Errorf("%s is listed twice", id)
		}
		seen[id] = true
		named := code.FindAllStringSubmatch(tests, -1)
		for _, term := range named {
			if !testName.MatchString(term[1]) {
				t.Errorf("%s: %s is not the name of a test", id, term[1])
			} else if why := tr.missing(term[1]); why != "" {
				t.Errorf("%s: %s: %s", id, term[1], why)
			}
		}
		switch {
		case status == "open" && len(named) > 0:
			t.Errorf("%s is open and names tests", id)
		case status != "open" && len(named) == 0:
			t.Errorf("%s is %s and names no test", id, status)
		case status == "partly" && missing == "":
			t.Errorf("%s is partly proven and the page does not say what is missing", id)
		}
	}
	total := 0
	for _, rows := range rowsOfPage {
		total += rows.count
		for n := 1; n <= rows.count; n++ {
			if id := fmt.Sprintf("%s-%0*d", rows.kind, rows.digits, n); !seen[id] {
				t.Errorf("%s is not listed", id)
			}
		}
	}
	if len(seen) != total {
		t.Errorf("the page lists %d rows; there are %d", len(seen), total)
	}
}
