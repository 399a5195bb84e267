package api

import "slices"

// RouteInfo is a row of the route table, for tests.
type RouteInfo struct {
	Method, Path     string
	Stream, HasBody  bool
	TakesTenant      bool // open to API tokens
	UnderEveryPrefix []string
}

// Routes gives the route table.
func Routes() []RouteInfo {
	var infos []RouteInfo
	for _, r := range new(API).routes() {
		infos = append(infos, RouteInfo{r.method, r.path, r.isStream(), r.body != none, r.access.roles() != nil, slices.Clone(prefixes())})
	}
	return infos
}
