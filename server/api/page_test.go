package api

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/authsec-ai/icp/server/store"
)

var update = flag.Bool("update", false, "write the table of routes into docs/api.md")

const (
	apiPage    = "../../docs/api.md"
	tableBegin = "<!-- routes: written by go test ./server/api -run TestAPIPage -update -->\n"
	tableEnd   = "<!-- end of routes -->\n"
)

// TestAPIPage checks that the table in docs/api.md is that of routes.go.
func TestAPIPage(t *testing.T) {
	raw, err := os.ReadFile(apiPage)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, begins := strings.Cut(string(raw), tableBegin)
	shown, after, ends := strings.Cut(rest, tableEnd)
	if !begins || !ends {
		t.Fatalf("%s has no table between %q and %q", apiPage, tableBegin, tableEnd)
	}
	want := routeTable()
	if shown == want {
		return
	}
	if !*update {
		t.Fatalf("the table is not that of routes.go; run go test ./server/api -run TestAPIPage -update. It should be\n%s", want)
	}
	if err := os.WriteFile(apiPage, []byte(before+tableBegin+want+tableEnd+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

func routeTable() string {
	var b strings.Builder
	b.WriteString("| method | path | who | query | body |\n|---|---|---|---|---|\n")
	for _, r := range new(API).routes() {
		fmt.Fprintf(&b, "| %s | `%s` | %s | %s | %s |\n", r.method, r.path, r.access.text(), strings.Join(r.query, ", "), r.body.text())
	}
	return b.String()
}

func (a access) text() string {
	switch a {
	case public:
		return "anyone"
	case agent:
		return "agent"
	case returningAgent:
		return "agent, also expired"
	case gateway:
		return "gateway"
	}
	var names []string
	for _, role := range a.roles() {
		if role != store.PlatformAdmin {
			names = append(names, string(role))
		}
	}
	return strings.Join(append([]string{string(store.PlatformAdmin)}, names...), ", ")
}

func (b body) text() string {
	return map[body]string{none: "", strict: "strict", curlDefault: "strict", tolerant: "tolerant", stranger: "tolerant"}[b]
}
