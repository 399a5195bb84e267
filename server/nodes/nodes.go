// Package nodes attests agents and remembers them: the first time by the
// evidence of some method, later by proof of the key that the node was attested
// with.
//
// An agent can always come back. Renewal works for a time after the SVID has
// expired, so that no outage, however long within that grace, leaves a fleet to
// be attested by hand; a banned node never comes back.
package nodes

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/audit"
	"github.com/authsec-ai/icp/internal/csr"
	"github.com/authsec-ai/icp/server/ca"
	"github.com/authsec-ai/icp/server/store"
)

// Verifier checks the evidence of one attestation method.
type Verifier interface {
	// Verify gives what the evidence proves, or an *identity.Error. It uses
	// nothing up.
	Verify(ctx context.Context, ev Evidence) (Claim, error)
}

// Evidence is what an agent sent to be attested.
type Evidence struct {
	Token    string          // of methods that use one
	NodeName string          // wanted, "" for none; not proven by itself
	Data     json.RawMessage // of other methods
	Now      time.Time
}

// Claim is what a Verifier found proven.
type Claim struct {
	Tenant    string
	NodeName  string // one valid path segment
	Selectors identity.Selectors
	TokenHash []byte // single-use secret that is used up with the attestation; nil for none
}

// Store keeps attested nodes.
type Store interface {
	Tenant(ctx context.Context, id string) (store.Tenant, error)
	AttestNode(ctx context.Context, n identity.Node, tokenHash []byte, now time.Time, ev audit.Event) error
	RenewNode(ctx context.Context, n identity.Node, oldSerial string, now time.Time, ev audit.Event) error
	RecordEvent(ctx context.Context, ev audit.Event) error
}

// Signer signs agent SVIDs.
type Signer interface {
	SignAgent(ctx context.Context, tenant string, id spiffeid.ID, csrDER []byte) (ca.AgentSVID, error)
}

// Config holds what a Service works with; all of it is required.
type Config struct {
	Store     Store
	Signer    Signer
	Verifiers map[string]Verifier // by method
	Now       func() time.Time
}

// Service attests and renews.
type Service struct {
	store     Store
	signer    Signer
	verifiers map[string]Verifier
	now       func() time.Time
}

// New refuses an incomplete Config.
func New(cfg Config) (*Service, error) {
	if cfg.Store == nil || cfg.Signer == nil || cfg.Now == nil || len(cfg.Verifiers) == 0 {
		return nil, errors.New("nodes: Store, Signer, Now and at least one Verifier are all required")
	}
	return &Service{store: cfg.Store, signer: cfg.Signer, verifiers: cfg.Verifiers, now: cfg.Now}, nil
}

// Attested is an agent's new identity.
type Attested struct {
	Tenant store.Tenant
	Node   identity.Node
	SVID   ca.AgentSVID
}

// Request asks to attest a node by a method.
type Request struct {
	Method    string
	Evidence  Evidence
	CSR       []byte // PKCS #10, DER
	RequestID string // for the audit trail
}

// Attest makes a node of what the evidence proves. The certificate is handed
// out only after the node row, and the use of the token, are committed.
func (s *Service) Attest(ctx context.Context, req Request) (Attested, error) {
	// 1. The request is well formed and proves possession of its key.
	verifier, ok := s.verifiers[req.Method]
	if !ok {
		return Attested{}, identity.Errorf(identity.Invalid, "attestation method %q is not known or not enabled here", identity.Clip(req.Method))
	}
	if _, _, err := csr.Parse(req.CSR); err != nil {
		return Attested{}, err
	}
	// 2. The evidence holds.
	now := s.now().UTC()
	req.Evidence.Now = now
	claim, err := verifier.Verify(ctx, req.Evidence)
	if err != nil {
		return Attested{}, err
	}
	t, id, err := s.agentID(ctx, claim)
	if err != nil {
		return Attested{}, err
	}
	// 3. Sign.
	signed, err := s.signer.SignAgent(ctx, t.ID, id, req.CSR)
	if err != nil {
		return Attested{}, err
	}
	// 4. Record; from here on the node exists and the token does not.
	n := identity.Node{
		ID: id, Tenant: t.ID, Method: req.Method, SPKI: signed.SPKI, Serial: signed.Serial,
		Selectors: claim.Selectors, CreatedAt: now, ExpiresAt: signed.ExpiresAt, LastSeen: now,
	}
	ev := s.event(n, "node.attest", req.RequestID, now)
	if err := s.store.AttestNode(ctx, n, claim.TokenHash, now, ev); err != nil {
		return Attested{}, s.refused(ctx, ev, err)
	}
	return Attested{Tenant: t, Node: n, SVID: signed}, nil
}

// agentID makes the ID that the claim entitles to, in the tenant's primary
// trust domain.
func (s *Service) agentID(ctx context.Context, c Claim) (store.Tenant, spiffeid.ID, error) {
	t, err := s.store.Tenant(ctx, c.Tenant)
	if err != nil {
		return store.Tenant{}, spiffeid.ID{}, err
	}
	id, err := identity.ParseID("spiffe://" + t.TrustDomain + identity.AgentPath(c.NodeName))
	if err != nil {
		return store.Tenant{}, spiffeid.ID{}, err
	}
	if !identity.IsAgentPath(id.Path()) {
		return store.Tenant{}, spiffeid.ID{}, identity.Errorf(identity.Invalid, "node name %q is not one path segment", identity.Clip(c.NodeName))
	}
	return t, id, nil
}

// Renew gives a node a new SVID for the key that it was attested with. The
// caller has proved that key twice: by its TLS connection, for which it used
// the SVID with the serial oldSerial, and by the request. It records what is
// Denied to a caller that it knows; only a Conflict is recorded here.
func (s *Service) Renew(ctx context.Context, n identity.Node, oldSerial string, csrDER []byte, requestID string) (Attested, error) {
	_, spki, err := csr.Parse(csrDER)
	if err != nil {
		return Attested{}, err
	}
	if subtle.ConstantTimeCompare(spki, n.SPKI) != 1 {
		return Attested{}, identity.Errorf(identity.Denied,
			"signing request is for another key than this node was attested with; a new key needs a new attestation")
	}
	t, err := s.store.Tenant(ctx, n.Tenant)
	if err != nil {
		return Attested{}, err
	}
	signed, err := s.signer.SignAgent(ctx, n.Tenant, n.ID, csrDER)
	if err != nil {
		return Attested{}, err
	}
	now := s.now().UTC()
	ev := s.event(n, "node.renew", requestID, now)
	n.Serial, n.ExpiresAt, n.LastSeen = signed.Serial, signed.ExpiresAt, now
	err = s.store.RenewNode(ctx, n, oldSerial, now, ev)
	if identity.CodeOf(err) == identity.Conflict {
		err = s.refused(ctx, ev, err)
	}
	if err != nil {
		return Attested{}, err
	}
	return Attested{Tenant: t, Node: n, SVID: signed}, nil
}

func (s *Service) event(n identity.Node, action, requestID string, now time.Time) audit.Event {
	return audit.Event{
		Time: now, Tenant: n.Tenant, Actor: n.ID.String(), Action: action,
		Object: n.ID.String(), Outcome: audit.Allowed, RequestID: requestID,
	}
}

// refused records why a node did not get its SVID although its proof held, and
// gives err on. A Conflict is the mark of two holders of one key (or of one
// name): the event names the node, which is what both are found by.
func (s *Service) refused(ctx context.Context, ev audit.Event, err error) error {
	ev.Outcome, ev.Reason = audit.Denied, identity.MessageOf(err)
	// The caller may have left so as not to be found.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if recordErr := s.store.RecordEvent(ctx, ev); recordErr != nil {
		return errors.Join(err, recordErr)
	}
	return err
}
