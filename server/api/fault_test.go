package api_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/audit"
	"github.com/authsec-ai/icp/internal/wire"
	"github.com/authsec-ai/icp/server/store"
)

// faulty is a store of which one method at a time fails.
type faulty struct {
	store.Store
	broken atomic.Value // string: name of the method
}

func (f *faulty) fault(method string) error {
	if f.broken.Load() == method {
		return errors.New("disk on fire")
	}
	return nil
}

func (f *faulty) APITokenByHash(ctx context.Context, hash []byte) (store.APIToken, error) {
	t, err := f.Store.APITokenByHash(ctx, hash)
	return t, errors.Join(err, f.fault("APITokenByHash"))
}

func (f *faulty) TenantByTrustDomain(ctx context.Context, td string) (store.Tenant, error) {
	t, err := f.Store.TenantByTrustDomain(ctx, td)
	return t, errors.Join(err, f.fault("TenantByTrustDomain"))
}

func (f *faulty) Tenant(ctx context.Context, id string) (store.Tenant, error) {
	t, err := f.Store.Tenant(ctx, id)
	return t, errors.Join(err, f.fault("Tenant"))
}

func (f *faulty) Node(ctx context.Context, tenant, id string) (identity.Node, error) {
	n, err := f.Store.Node(ctx, tenant, id)
	return n, errors.Join(err, f.fault("Node"))
}

func (f *faulty) Entry(ctx context.Context, tenant, id string) (identity.Entry, error) {
	e, err := f.Store.Entry(ctx, tenant, id)
	return e, errors.Join(err, f.fault("Entry"))
}

func (f *faulty) Issued(ctx context.Context, tenant, serial string) (store.Issuance, error) {
	i, err := f.Store.Issued(ctx, tenant, serial)
	return i, errors.Join(err, f.fault("Issued"))
}

func (f *faulty) Revoked(ctx context.Context, tenant, serial string) (bool, error) {
	r, err := f.Store.Revoked(ctx, tenant, serial)
	return r, errors.Join(err, f.fault("Revoked"))
}

func (f *faulty) JoinTokenByHash(ctx context.Context, hash []byte) (store.JoinToken, error) {
	t, err := f.Store.JoinTokenByHash(ctx, hash)
	return t, errors.Join(err, f.fault("JoinTokenByHash"))
}

func (f *faulty) AttestNode(ctx context.Context, n identity.Node, hash []byte, now time.Time, ev audit.Event) error {
	if err := f.fault("AttestNode"); err != nil {
		return err
	}
	return f.Store.AttestNode(ctx, n, hash, now, ev)
}

func (f *faulty) RenewNode(ctx context.Context, n identity.Node, old string, now time.Time, ev audit.Event) error {
	if err := f.fault("RenewNode"); err != nil {
		return err
	}
	return f.Store.RenewNode(ctx, n, old, now, ev)
}

// TestFaultsDeny is T-18: what can't be checked is refused, and nothing of the
// fault is shown.
func TestFaultsDeny(t *testing.T) {
	var f *faulty
	w := newWorldOn(t, func(s store.Store) store.Store { f = &faulty{Store: s}; return f })
	f.broken.Store("")
	a := w.newTenant("acme")
	n := a.attest("n1")
	stranger := a.attest("n3") // has not called yet
	proxy := a.workload(n, "/gw", []string{"llm"})
	join := a.joinToken(nil)
	attest := doc(wire.AttestRequest{Method: "join_token", Token: join, NodeID: "n2", CSR: newCSR(t, newKey(t))})
	renew := doc(wire.RenewRequest{CSR: newCSR(t, n.key)})
	for _, c := range []struct {
		broken       string
		from         *client
		method, path string
		body         string
	}{
		{"APITokenByHash", a.admin, "GET", "/api/v1/workloads", ""},
		{"TenantByTrustDomain", stranger.client, "POST", wire.PathSign, `{"items": [{}]}`},
		{"Tenant", stranger.client, "POST", wire.PathSign, `{"items": [{}]}`},
		{"Tenant", n.client, "POST", wire.PathSign, `{"items": [{}]}`},
		{"Node", n.client, "POST", wire.PathSign, `{"items": [{}]}`},
		{"Node", n.client, "POST", wire.PathRenew, renew},
		{"TenantByTrustDomain", proxy, "GET", wire.PathGateway, ""},
		{"Revoked", proxy, "GET", wire.PathGateway, ""},
		{"Issued", proxy, "GET", wire.PathGateway, ""},
		{"Entry", proxy, "GET", wire.PathGateway, ""},
		{"JoinTokenByHash", w.as(""), "POST", wire.PathAttest, attest},
		{"AttestNode", w.as(""), "POST", wire.PathAttest, attest},
		{"RenewNode", n.client, "POST", wire.PathRenew, renew},
	} {
		t.Run("T-18/"+c.broken+" "+c.path, func(t *testing.T) {
			w.clock.Advance(2 * time.Second) // past what the CA remembers of a tenant
			f.broken.Store(c.broken)
			defer f.broken.Store("")
			got := c.from.do(c.method, c.path, c.body)
			if got.status != 500 && got.status != 503 {
				t.Errorf("status %d: %s", got.status, got.body)
			}
			if strings.Contains(string(got.body), "fire") {
				t.Errorf("the answer shows the fault: %s", got.body)
			}
		})
	}
	t.Run("T-04/the token is not used up by a failure", func(t *testing.T) {
		w.as("").do("POST", wire.PathAttest, attest).want(t, 200, nil)
	})
	t.Run("T-18/twin", func(t *testing.T) {
		n.renew().want(t, 200, nil)
		a.admin.do("GET", "/api/v1/workloads", "").want(t, 200, nil)
		open[wire.PolicyFrame](proxy, wire.PathGateway).next(func(f wire.PolicyFrame) bool { return f.Policies != nil })
	})
}
