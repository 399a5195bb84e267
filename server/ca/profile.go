package ca

import (
	"time"

	"github.com/authsec-ai/icp/identity"
)

// Lifetimes of credentials.
const (
	defaultTTL    = time.Hour
	defaultMaxTTL = time.Hour
	aiAgentTTL    = 10 * time.Minute
	defaultJWTTTL = 5 * time.Minute
	agentTTL      = time.Hour
	minTTL        = 5 * time.Second
	// longestTTL is as far as a tenant's maximum can be raised: an issuer lives
	// for seven days and is replaced that long before its end.
	longestTTL = 6 * 24 * time.Hour

	// x509Backdate is how far notBefore lies before the time of issue, for
	// verifiers whose clocks are behind.
	x509Backdate = 10 * time.Second
)

// profileAIAgent is the profile of short-lived identities.
const profileAIAgent = "ai-agent"

// lifetime gives the whole seconds that a credential of this kind lives, from
// its time of issue to its end.
func (v *view) lifetime(kind identity.Kind, spec identity.Spec) (time.Duration, error) {
	ttl := time.Duration(spec.JWTTTL)
	if kind == identity.X509 {
		ttl = time.Duration(spec.TTL)
	}
	if ttl == 0 {
		var err error
		if ttl, err = v.defaultLifetime(kind, spec.Profile); err != nil {
			return 0, err
		}
	}
	return max(min(ttl, v.maxTTL()), minTTL).Truncate(time.Second), nil
}

func (v *view) defaultLifetime(kind identity.Kind, profile string) (time.Duration, error) {
	if profile != "" && profile != profileAIAgent {
		return 0, identity.Errorf(identity.Denied, "the entry has the unknown profile %q; this server may be older than the one that wrote it", identity.Clip(profile))
	}
	switch {
	case kind == identity.JWT:
		return defaultJWTTTL, nil
	case profile == profileAIAgent:
		return aiAgentTTL, nil
	case v.tenant.Settings.TTL > 0:
		return time.Duration(v.tenant.Settings.TTL), nil
	}
	return defaultTTL, nil
}

// maxTTL is the longest lifetime that the tenant allows.
func (v *view) maxTTL() time.Duration {
	if v.tenant.Settings.MaxTTL <= 0 {
		return defaultMaxTTL
	}
	return min(time.Duration(v.tenant.Settings.MaxTTL), longestTTL)
}

// backdate is how far a credential's start lies before its time of issue.
func backdate(kind identity.Kind) time.Duration {
	if kind == identity.X509 {
		return x509Backdate
	}
	return 0
}

// owns reports whether an entry names a workload of the tenant: in its trust
// domain, with a path, and not one that is reserved for agents.
func (v *view) owns(e identity.Entry) bool {
	id := e.SPIFFEID
	return id.TrustDomain() == v.domain && id.Path() != "" && !identity.IsAgentPath(id.Path())
}
