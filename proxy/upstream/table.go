package upstream

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/authsec-ai/icp/proxy/credential"
)

// Table finds the backend of a path.
type Table struct {
	backends []*Backend // longest prefix first
}

// Backend is a Route with what is needed to use it.
type Backend struct {
	Route
	Credential *credential.File // nil if the route has none

	target    *url.URL
	pin       spiffeid.ID
	transport *http.Transport
	upgrades  *http.Transport // HTTP/1.1 only: HTTP/2 has no Upgrade
}

// NewTable checks routes and opens their credentials. It dials nobody.
func NewTable(routes []Route, self Identity, now func() time.Time) (*Table, error) {
	if len(routes) == 0 {
		return nil, fmt.Errorf("there are no routes; without one every request is refused")
	}
	table := &Table{}
	seen := map[string]bool{}
	for i, route := range routes {
		if seen[route.PathPrefix] {
			return nil, fmt.Errorf("routes[%d]: path_prefix %q is taken by another route", i, route.PathPrefix)
		}
		seen[route.PathPrefix] = true
		backend, err := newBackend(route, self, now)
		if err != nil {
			return nil, fmt.Errorf("routes[%d] (%s): %w", i, route.Service, err)
		}
		table.backends = append(table.backends, backend)
	}
	slices.SortFunc(table.backends, func(a, b *Backend) int { return len(b.PathPrefix) - len(a.PathPrefix) })
	return table, nil
}

func newBackend(route Route, self Identity, now func() time.Time) (*Backend, error) {
	target, pin, err := route.check()
	if err != nil {
		return nil, err
	}
	if route.MaxBodyBytes == 0 {
		route.MaxBodyBytes = DefaultMaxBodyBytes
	}
	if route.HeaderTimeout == 0 {
		route.HeaderTimeout = DefaultHeaderTimeout
	}
	b := &Backend{Route: route, target: target, pin: pin}
	if route.Credential != nil {
		if b.Credential, err = credential.Open(*route.Credential, now); err != nil {
			return nil, err
		}
	}
	if b.transport, err = newTransport(route, pin, self, now); err != nil {
		return nil, err
	}
	b.upgrades = b.transport.Clone()
	b.upgrades.ForceAttemptHTTP2, b.upgrades.Protocols = false, new(http.Protocols)
	b.upgrades.Protocols.SetHTTP1(true)
	return b, nil
}

// Match gives the backend with the longest prefix of path, nil if there is
// none. The path is canonical.
func (t *Table) Match(path string) *Backend {
	for _, b := range t.backends {
		if b.covers(path) {
			return b
		}
	}
	return nil
}

func (b *Backend) covers(path string) bool {
	if b.PathPrefix == "/" {
		return true
	}
	rest, ok := strings.CutPrefix(path, b.PathPrefix)
	return ok && (rest == "" || rest[0] == '/')
}

// Rest gives the path without a prefix that a gateway put before the API's own
// paths: /openai/v1/models is /v1/models under the prefix /openai.
func (b *Backend) Rest(path string) string {
	rest, ok := strings.CutPrefix(path, b.PathPrefix)
	if ok && (strings.HasPrefix(rest, "/v1/") || strings.HasPrefix(rest, "/v1beta/")) {
		return rest
	}
	return path
}

// CheckBuffered holds the body limit of every LLM route, whose bodies are read
// before they are judged, against check.
func (t *Table) CheckBuffered(check func(service string, body int64) error) error {
	for _, b := range t.backends {
		if !b.LLM {
			continue
		}
		if err := check(b.Service, b.MaxBodyBytes); err != nil {
			return err
		}
	}
	return nil
}

// Secrets lists the headers in which backends get credentials, so that no
// caller's own reaches any of them.
func (t *Table) Secrets() []string {
	var names []string
	for _, b := range t.backends {
		if b.Credential != nil {
			names = append(names, b.Credential.Header())
		}
	}
	return names
}

// URL gives where a request goes. Path and query stay byte for byte as they
// were judged.
func (b *Backend) URL(path, query string, question bool) *url.URL {
	return &url.URL{Scheme: b.target.Scheme, Host: b.target.Host, Path: path, RawPath: path, RawQuery: query, ForceQuery: question && query == ""}
}

// RoundTrip sends a request. It follows no redirect.
func (b *Backend) RoundTrip(req *http.Request) (*http.Response, error) {
	return b.transport.RoundTrip(req)
}

// Close gives up idle connections.
func (t *Table) Close() {
	for _, b := range t.backends {
		b.transport.CloseIdleConnections()
		b.upgrades.CloseIdleConnections()
	}
}
