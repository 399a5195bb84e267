package cache

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/identity/svid"
	"github.com/authsec-ai/icp/internal/csr"
	"github.com/authsec-ai/icp/internal/wire"
)

const (
	// gather is how long a first request waits for others to share its batch.
	// It paces the network, so it is in real time whatever the clock is.
	gather = 5 * time.Millisecond
	// signTimeout bounds one batch.
	signTimeout = 15 * time.Second
)

// issuing is one SVID that is being issued.
type issuing struct {
	entry   *entry
	asker   asker
	pending *pending
	done    chan struct{} // closed when the entry has its SVID or its failure
}

// pending is a request to sign. It is repeated unchanged, so that an answer that
// was lost is given again and not issued twice.
type pending struct {
	requestID string
	keyDER    []byte // PKCS #8
	csr       []byte
	madeAt    time.Time
}

// repeatFor is how long a request is repeated unchanged: after that its answer
// would be an SVID that is older than need be.
const repeatFor = 30 * time.Second

// request has e issued, in the next batch, unless it is under way. The caller
// holds c.mu.
func (c *Cache) request(e *entry, by asker) *issuing {
	if e.issuing != nil {
		return e.issuing
	}
	c.queue = append(c.queue, c.begin(e, by))
	signal(c.queued)
	return e.issuing
}

// begin marks e as being issued. The caller holds c.mu.
func (c *Cache) begin(e *entry, by asker) *issuing {
	e.issuing = &issuing{entry: e, asker: by, done: make(chan struct{})}
	if p := e.pending; p != nil && c.clock.Now().Sub(p.madeAt) < repeatFor {
		e.issuing.pending = p
	}
	return e.issuing
}

// issueQueued sends what processes wait for, in batches. Each batch has a
// goroutine of its own, so that renewals and slow answers keep nobody waiting.
func (c *Cache) issueQueued(ctx context.Context, group *sync.WaitGroup) {
	timer := time.NewTimer(gather)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.queued:
		}
		timer.Reset(gather)
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		for batch := range slices.Chunk(c.takeQueue(), wire.MaxBatch) {
			group.Go(func() { c.issue(ctx, batch) })
		}
	}
}

func (c *Cache) takeQueue() []*issuing {
	c.mu.Lock()
	defer c.mu.Unlock()
	queue := c.queue
	c.queue = nil
	return queue
}

// issue has one batch signed and settles each of its items.
func (c *Cache) issue(ctx context.Context, batch []*issuing) {
	ctx, cancel := context.WithTimeout(ctx, signTimeout)
	defer cancel()
	results, err := c.sign(ctx, batch)
	if err != nil {
		c.log.Warn("SVIDs not issued", "count", len(batch), "error", err)
	}
	for i, item := range batch {
		var got *issued
		itemErr := err
		if err == nil {
			got, itemErr = c.acceptOne(item, results[i])
		}
		c.metrics.count(ctx, identity.X509, itemErr)
		c.settle(item, got, itemErr)
	}
	signal(c.kick)
}

func (c *Cache) acceptOne(item *issuing, result wire.SignResult) (*issued, error) {
	got, err := c.accept(item, result)
	if err != nil {
		c.log.Warn("SVID not issued", "entry", item.entry.ID, "spiffe_id", item.entry.SPIFFEID.String(), "error", err)
	}
	return got, err
}

func (c *Cache) sign(ctx context.Context, batch []*issuing) ([]wire.SignResult, error) {
	req := wire.SignRequest{Items: make([]wire.SignItem, len(batch))}
	for i, item := range batch {
		if item.pending == nil {
			p, err := newPending(c.clock.Now())
			if err != nil {
				return nil, err
			}
			item.pending = p
		}
		e := item.entry
		req.Items[i] = wire.SignItem{
			RequestID: item.pending.requestID, EntryID: e.ID, EntryRevision: e.Revision,
			Selectors: item.asker.selectors, Evidence: item.asker.evidence, CSR: item.pending.csr,
		}
	}
	resp, err := c.signer.Sign(ctx, req)
	switch {
	case err != nil:
		// Whatever the server has against the request as a whole, it is not
		// about an entry, so it is not final for any.
		return nil, &identity.Error{Code: identity.Unavailable, Message: "have SVIDs signed", Err: err}
	case len(resp.Results) != len(batch):
		return nil, identity.Errorf(identity.Unavailable, "server answered %d of %d items", len(resp.Results), len(batch))
	}
	return resp.Results, nil
}

// newPending makes a P-256 key and a request for it.
func newPending(now time.Time) (*pending, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a workload key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode a workload key: %w", err)
	}
	req, err := csr.New(key)
	if err != nil {
		return nil, err
	}
	return &pending{requestID: rand.Text(), keyDER: der, csr: req, madeAt: now}, nil
}

// accept checks what came back: it must be for the key that was made here and
// for the entry's ID, and verify against the bundle that goes with it. What the
// agent would not accept from a peer it does not hand out.
func (c *Cache) accept(item *issuing, result wire.SignResult) (*issued, error) {
	if result.Error != nil {
		return nil, result.Error.Err()
	}
	chain := slices.Concat(result.Chain...)
	x, err := x509svid.ParseRaw(chain, item.pending.keyDER)
	if err != nil {
		return nil, fmt.Errorf("server's answer for entry %s: %w", item.entry.ID, err)
	}
	if x.ID != item.entry.SPIFFEID {
		return nil, fmt.Errorf("server's answer for entry %s names %s", item.entry.ID, x.ID)
	}
	now := c.clock.Now()
	if err := c.verify(x, now); err != nil {
		return nil, fmt.Errorf("server's answer for entry %s: %w", item.entry.ID, err)
	}
	x.Hint = item.entry.Hint
	s := &issued{Identity: Identity{EntryID: item.entry.ID, SVID: x, ChainDER: chain, KeyDER: item.pending.keyDER}}
	s.schedule(now, c.fractionOf(item.entry), c.jitter())
	return s, nil
}

func (c *Cache) verify(x *x509svid.SVID, now time.Time) error {
	bundle, err := c.bundle(x.ID.TrustDomain())
	if err != nil {
		return err
	}
	if start := x.Certificates[0].NotBefore; now.Before(start) {
		now = start // a clock that is behind serves all the same; the sync reports it
	}
	raw := make([][]byte, len(x.Certificates))
	for i, cert := range x.Certificates {
		raw[i] = cert.Raw
	}
	_, err = svid.VerifyX509(raw, bundle, svid.X509Options{Now: now})
	return err
}

func (c *Cache) bundle(td spiffeid.TrustDomain) (*spiffebundle.Bundle, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b, ok := c.bundles[td]
	if !ok {
		return nil, fmt.Errorf("there is no bundle of trust domain %s", td)
	}
	return b, nil
}

// fractionOf gives the part of its lifetime after which an entry's SVID is
// renewed.
func (c *Cache) fractionOf(e *entry) float64 {
	if e.RenewAt > 0 && e.RenewAt < 1 {
		return e.RenewAt
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.renewAt
}

// settle puts the SVID, or the failure, in its place and wakes who waits and
// who watches.
func (c *Cache) settle(item *issuing, got *issued, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := item.entry
	e.issuing = nil
	defer close(item.done)
	if err != nil {
		c.fail(e, item, err)
		return
	}
	e.svid, e.previous, e.pending = got, nil, nil
	e.failure, e.attempts, e.alerted = nil, 0, false
	for s := range e.holders {
		s.wake()
	}
}

func (c *Cache) fail(e *entry, item *issuing, err error) {
	now := c.clock.Now()
	e.failure, e.pending = err, item.pending
	e.attempts++
	e.retryAt = now.Add(e.backOff(c.jitter()))
}
