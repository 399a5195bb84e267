// Package upstream knows what stands behind the proxy: which path leads where,
// how the other side proves who it is, and which credential it gets.
package upstream

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/proxy/credential"
)

// Route leads a service's paths to its upstream.
type Route struct {
	Service    string `yaml:"service"`     // the name that policies use
	PathPrefix string `yaml:"path_prefix"` // whole segments: /v1 covers /v1 and /v1/…
	Upstream   string `yaml:"upstream"`    // http or https URL without a path; requests keep theirs
	LLM        bool   `yaml:"llm"`         // an LLM API: every request is judged by its model

	UpstreamSPIFFEID string             `yaml:"upstream_spiffe_id"` // mutual TLS with the proxy's SVID; the peer must have this ID
	UpstreamCAFile   string             `yaml:"upstream_ca_file"`   // PEM; empty means the system's roots
	Credential       *credential.Config `yaml:"credential"`
	Audit            string             `yaml:"audit"` // "required": no request without its audit line; "" drops lines when the sink is full

	MaxBodyBytes  int64         `yaml:"max_body_bytes"` // of a request; 0 means DefaultMaxBodyBytes
	HeaderTimeout time.Duration `yaml:"header_timeout"` // until the upstream's answer begins; 0 means DefaultHeaderTimeout
}

const (
	// DefaultMaxBodyBytes bounds a request body.
	DefaultMaxBodyBytes = 10 << 20
	// DefaultHeaderTimeout bounds the wait for an answer to begin. Models think
	// for minutes.
	DefaultHeaderTimeout = 5 * time.Minute
	// AuditRequired is Route.Audit for services that do nothing unrecorded.
	AuditRequired = "required"
)

// check gives the parsed upstream URL and pinned ID.
func (r *Route) check() (*url.URL, spiffeid.ID, error) {
	if r.Service == "" {
		return nil, spiffeid.ID{}, fmt.Errorf("service is missing")
	}
	if err := checkPrefix(r.PathPrefix); err != nil {
		return nil, spiffeid.ID{}, err
	}
	if r.Audit != "" && r.Audit != AuditRequired {
		return nil, spiffeid.ID{}, fmt.Errorf("audit is %q; write %q or leave it out", r.Audit, AuditRequired)
	}
	if r.MaxBodyBytes < 0 || r.HeaderTimeout < 0 {
		return nil, spiffeid.ID{}, fmt.Errorf("max_body_bytes and header_timeout can't be negative")
	}
	target, err := r.target()
	if err != nil {
		return nil, spiffeid.ID{}, err
	}
	pin, err := r.pin(target)
	return target, pin, err
}

func checkPrefix(prefix string) error {
	bad := !strings.HasPrefix(prefix, "/") || strings.ContainsAny(prefix, "%\\;?#*") ||
		strings.Contains(prefix, "//") || len(prefix) > 1 && strings.HasSuffix(prefix, "/")
	if bad {
		return fmt.Errorf("path_prefix %q must start with '/', not end with it, and be canonical", prefix)
	}
	return nil
}

func (r *Route) target() (*url.URL, error) {
	u, err := url.Parse(r.Upstream)
	if err != nil {
		return nil, fmt.Errorf("upstream is not a URL: %w", err)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return nil, fmt.Errorf("upstream %q must be an http or https URL", r.Upstream)
	}
	if u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.User != nil || u.Fragment != "" {
		return nil, fmt.Errorf("upstream %q must have no path, query or user: requests keep their own path", r.Upstream)
	}
	if r.Credential != nil && u.Scheme == "http" && !loopback(u.Hostname()) {
		return nil, fmt.Errorf("upstream %q would get its credential in clear text; use https", r.Upstream)
	}
	return u, nil
}

func loopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

func (r *Route) pin(target *url.URL) (spiffeid.ID, error) {
	if r.UpstreamSPIFFEID == "" {
		return spiffeid.ID{}, nil
	}
	if target.Scheme != "https" {
		return spiffeid.ID{}, fmt.Errorf("upstream_spiffe_id needs an https upstream")
	}
	if r.UpstreamCAFile != "" {
		return spiffeid.ID{}, fmt.Errorf("upstream_spiffe_id and upstream_ca_file exclude each other: the trust bundle decides")
	}
	id, err := identity.ParseWorkloadID(r.UpstreamSPIFFEID)
	if err != nil {
		return spiffeid.ID{}, fmt.Errorf("upstream_spiffe_id: %w", err)
	}
	return id, nil
}
