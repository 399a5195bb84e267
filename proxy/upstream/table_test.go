package upstream

import (
	"testing"
	"time"
)

func TestMatch(t *testing.T) {
	route := func(service, prefix string) Route {
		return Route{Service: service, PathPrefix: prefix, Upstream: "http://127.0.0.1:1"}
	}
	table, err := NewTable([]Route{route("v1", "/v1"), route("admin", "/v1/admin"), route("x", "/x/y")}, nil, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/v1": "v1", "/v1/": "v1", "/v1/admins": "v1", "/v1/admin": "admin", "/v1/admin/x": "admin", "/v11": "", "/V1": "", "/": "", "/x": "", "/x/y/z": "x",
	} {
		got := ""
		if b := table.Match(path); b != nil {
			got = b.Service
		}
		if got != want {
			t.Errorf("%s leads to %q, want %q", path, got, want)
		}
	}
	everything, err := NewTable([]Route{route("all", "/"), route("v1", "/v1")}, nil, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if everything.Match("/anything").Service != "all" || everything.Match("/v1/x").Service != "v1" {
		t.Error("the longest prefix does not win over /")
	}
}

// A request's target goes out in the bytes that were judged.
func TestURLKeepsBytes(t *testing.T) {
	table, err := NewTable([]Route{{Service: "a", PathPrefix: "/", Upstream: "http://127.0.0.1:1/"}}, nil, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		path, query string
		question    bool
		want        string
	}{
		{"/a!$&'()*+,=:@-._~/b", "", false, "/a!$&'()*+,=:@-._~/b"},
		{"/a", "x=%2F&y", true, "/a?x=%2F&y"},
		{"/a", "", true, "/a?"},
		{"/a/", "", false, "/a/"},
	} {
		if got := table.Match(row.path).URL(row.path, row.query, row.question).RequestURI(); got != row.want {
			t.Errorf("%q, want %q", got, row.want)
		}
	}
}
