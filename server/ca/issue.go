package ca

import (
	"bytes"
	"context"
	"crypto"
	"encoding/hex"
	"strings"
	"time"
	"unicode"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/audit"
	"github.com/authsec-ai/icp/internal/wire"
	"github.com/authsec-ai/icp/server/store"
)

// batch is the items of one request on their way to credentials.
type batch struct {
	kind    identity.Kind
	purpose store.Purpose // of the authority that signs
	tenant  string
	node    string
	begin   time.Time
	now     time.Time // begin in whole seconds: the time of issue
	asks    []ask

	view   *view
	signer *authority
}

// ask is one item. The step that refuses it sets err, and no later step looks
// at it; what it asked for is released only if err is nil at the end.
type ask struct {
	requestID string
	entryID   string
	revision  int64
	selectors identity.Selectors
	evidence  string

	key      crypto.PublicKey // X.509
	spki     []byte           // X.509: SHA-256 of the key
	audience []string         // JWT

	entry    identity.Entry
	intent   store.Intent
	recorded bool // this request put the intent on record; false for a retry

	chain [][]byte // X.509, made
	token string   // JWT, made
	err   error
}

// SignWorkloads makes X.509-SVIDs for entries of one node, at most
// wire.MaxBatch. Every item is judged on its own and answered in its place.
func (c *CA) SignWorkloads(ctx context.Context, tenant, node string, items []wire.SignItem) []wire.SignResult {
	b := c.newBatch(identity.X509, store.WorkloadIssuer, tenant, node, len(items))
	for i, item := range items {
		b.asks[i] = ask{requestID: item.RequestID, entryID: item.EntryID, revision: item.EntryRevision,
			selectors: item.Selectors, evidence: item.Evidence}
	}
	c.issue(ctx, b, func(i int) error { return b.asks[i].readCSR(items[i].CSR) })
	results := make([]wire.SignResult, len(items))
	for i, a := range b.asks {
		if a.err != nil {
			results[i].Error = wire.ProblemOf(a.err)
			continue
		}
		results[i] = wire.SignResult{Chain: a.chain, ExpiresAt: a.intent.ExpiresAt}
	}
	return results
}

// SignJWTs makes JWT-SVIDs for entries of one node, as SignWorkloads does.
func (c *CA) SignJWTs(ctx context.Context, tenant, node string, items []wire.SignJWTItem) []wire.SignJWTResult {
	b := c.newBatch(identity.JWT, store.JWTKey, tenant, node, len(items))
	for i, item := range items {
		b.asks[i] = ask{requestID: item.RequestID, entryID: item.EntryID, revision: item.EntryRevision,
			selectors: item.Selectors, evidence: item.Evidence}
	}
	c.issue(ctx, b, func(i int) error { return b.asks[i].readAudience(items[i].Audience) })
	results := make([]wire.SignJWTResult, len(items))
	for i, a := range b.asks {
		if a.err != nil {
			results[i].Error = wire.ProblemOf(a.err)
			continue
		}
		results[i] = wire.SignJWTResult{Token: a.token, IssuedAt: a.intent.NotBefore, ExpiresAt: a.intent.ExpiresAt}
	}
	return results
}

func (c *CA) newBatch(kind identity.Kind, p store.Purpose, tenant, node string, size int) *batch {
	begin := c.now().UTC()
	return &batch{kind: kind, purpose: p, tenant: tenant, node: node,
		begin: begin, now: begin.Truncate(time.Second), asks: make([]ask, size)}
}

// issue takes a batch through all steps. read checks and stores what item i
// asks for beyond its entry.
func (c *CA) issue(ctx context.Context, b *batch, read func(i int) error) {
	c.check(b, read)      // 1. the request itself
	c.loadEntries(ctx, b) // 2. what the tenant's registry says
	c.authorize(b)        // 3. may this node have this credential, and what will it be
	c.loadSigner(ctx, b)  // 4. a key to sign with
	c.record(ctx, b)      // 5. authorize again under the store's locks; store the intent
	c.sign(ctx, b)        // 6. make and check the credential
	c.finish(ctx, b)      // 7. close the record
	c.report(ctx, b)      // 8. metrics and denials
}

// open lists the indexes of items that nothing has refused so far.
func (b *batch) open() []int {
	list := make([]int, 0, len(b.asks))
	for i := range b.asks {
		if b.asks[i].err == nil {
			list = append(list, i)
		}
	}
	return list
}

// refuse ends all items that are still open.
func (b *batch) refuse(err error) {
	for i := range b.asks {
		if b.asks[i].err == nil {
			b.asks[i].err = err
		}
	}
}

func (c *CA) check(b *batch, read func(i int) error) {
	if len(b.asks) > wire.MaxBatch {
		b.refuse(identity.Errorf(identity.TooLarge, "request has %d items; the limit is %d", len(b.asks), wire.MaxBatch))
		return
	}
	owner := map[string]string{} // entry that a key was first seen with
	for i := range b.asks {
		a := &b.asks[i]
		if a.err = a.checkNames(); a.err == nil {
			a.err = read(i)
		}
		if a.err != nil || a.spki == nil {
			continue
		}
		if first, seen := owner[string(a.spki)]; seen && first != a.entryID {
			a.err = identity.Errorf(identity.Invalid, "the same key is used for two entries; make a key for each")
			continue
		}
		owner[string(a.spki)] = a.entryID
	}
}

// maxName bounds what an agent names things by; the store keeps it.
const maxName = 128 // bytes

// checkNames refuses names that some database would not keep, for it would
// refuse the whole batch.
func (a *ask) checkNames() error {
	for _, name := range [...]struct{ field, text string }{{"request_id", a.requestID}, {"entry_id", a.entryID}, {"evidence", a.evidence}} {
		if len(name.text) > maxName || strings.ContainsFunc(name.text, unicode.IsControl) {
			return identity.Errorf(identity.Invalid, "%s has %d bytes; at most %d and no control characters are accepted", name.field, len(name.text), maxName)
		}
	}
	return nil
}

// loadEntries finds the tenant and the entries that are asked for.
func (c *CA) loadEntries(ctx context.Context, b *batch) {
	open := b.open()
	if len(open) == 0 {
		return
	}
	var err error
	if b.view, err = c.look(ctx, b.tenant); err != nil {
		b.refuse(err)
		return
	}
	ids := make([]string, len(open))
	for n, i := range open {
		ids[n] = b.asks[i].entryID
	}
	entries, err := c.store.EntriesByID(ctx, b.tenant, ids)
	if err != nil {
		b.refuse(unavailable("load the entries", err))
		return
	}
	byID := make(map[string]identity.Entry, len(entries))
	for _, e := range entries {
		byID[e.ID] = e
	}
	for _, i := range open {
		a := &b.asks[i]
		entry, ok := byID[a.entryID]
		if !ok {
			a.err = identity.Errorf(identity.Denied, "there is no entry %q for this agent", identity.Clip(a.entryID))
			continue
		}
		a.entry = entry
	}
}

// authorize judges each item against its entry and decides what the credential
// will be.
func (c *CA) authorize(b *batch) {
	for _, i := range b.open() {
		a := &b.asks[i]
		if a.err = a.permitted(b); a.err == nil {
			a.err = c.intend(b, a)
		}
	}
}

// permitted reports why an item may not have what it asks for; nil if it may.
// The store checks parent, node and revision again when the intent is recorded.
func (a *ask) permitted(b *batch) error {
	switch e := a.entry; {
	case e.Tenant != b.tenant:
		return identity.Errorf(identity.Denied, "there is no entry %q for this agent", identity.Clip(a.entryID))
	case e.Revision != a.revision:
		return identity.Errorf(identity.Denied, "entry %q is at revision %d, not %d; synchronize and ask again",
			identity.Clip(a.entryID), e.Revision, a.revision)
	case !a.selectors.Contains(e.Selectors):
		return identity.Errorf(identity.Denied, "the attested selectors do not match entry %q", identity.Clip(a.entryID))
	case !b.view.owns(e):
		return identity.Errorf(identity.Denied, "%s is not a workload of trust domain %s", e.SPIFFEID, b.view.domain.Name())
	case b.view.isAuthorityKey(a.spki):
		return identity.Errorf(identity.Invalid, "the key of the signing request belongs to a certificate authority")
	}
	return checkHostNames(a.entry.DNSNames)
}

// intend fixes serial and validity of a permitted item.
func (c *CA) intend(b *batch, a *ask) error {
	ttl, err := b.view.lifetime(b.kind, a.entry.Spec)
	if err != nil {
		return err
	}
	serial, err := c.newSerial()
	if err != nil {
		return unavailable("make a serial number", err)
	}
	a.intent = store.Intent{
		Kind:          b.kind,
		Serial:        hex.EncodeToString(serial),
		RequestID:     a.retryKey(),
		EntryID:       a.entryID,
		EntryRevision: a.revision,
		SPIFFEID:      a.entry.SPIFFEID,
		Evidence:      a.evidence,
		SPKI:          a.spki,
		NotBefore:     b.now.Add(-backdate(b.kind)),
		ExpiresAt:     b.now.Add(ttl),
	}
	return nil
}

// loadSigner gets an authority that outlives everything in the batch.
func (c *CA) loadSigner(ctx context.Context, b *batch) {
	open := b.open()
	if len(open) == 0 {
		return
	}
	last := b.now
	for _, i := range open {
		if end := b.asks[i].intent.ExpiresAt; end.After(last) {
			last = end
		}
	}
	var err error
	if b.signer, err = c.signer(ctx, b.view, b.purpose, last); err != nil {
		b.refuse(err)
	}
}

// record stores the intents. From here on each item that is not refused has its
// serial in the store, whatever happens.
func (c *CA) record(ctx context.Context, b *batch) {
	open := b.open()
	if len(open) == 0 {
		return
	}
	intents := make([]store.Intent, len(open))
	for n, i := range open {
		intents[n] = b.asks[i].intent
	}
	recorded, errs, err := c.store.RecordIntents(ctx, b.tenant, b.node, b.begin, intents)
	if err != nil || len(recorded) != len(open) || len(errs) != len(open) {
		b.refuse(unavailable("record the issuance", err))
		return
	}
	for n, i := range open {
		a := &b.asks[i]
		if a.err = errs[n]; a.err == nil {
			a.err = a.adopt(recorded[n], b.begin)
		}
	}
}

// adopt takes over the recorded intent. For a retry that is the first one's,
// and must be for the same thing.
func (a *ask) adopt(recorded store.Intent, now time.Time) error {
	want := a.intent
	same := recorded.Kind == want.Kind && recorded.EntryID == want.EntryID && recorded.EntryRevision == want.EntryRevision &&
		recorded.SPIFFEID == want.SPIFFEID && bytes.Equal(recorded.SPKI, want.SPKI)
	if !same {
		return identity.Errorf(identity.Conflict, "request id %q was used for another request", identity.Clip(a.requestID))
	}
	if !now.Before(recorded.ExpiresAt) {
		return identity.Errorf(identity.Conflict, "what request id %q got has expired; ask under a new one", identity.Clip(a.requestID))
	}
	a.recorded = recorded.Serial == want.Serial
	a.intent = recorded
	return nil
}

func (c *CA) sign(ctx context.Context, b *batch) {
	for _, i := range b.open() {
		a := &b.asks[i]
		switch b.kind {
		case identity.X509:
			a.chain, a.err = b.signer.signLeaf(a)
		case identity.JWT:
			a.token, a.err = b.signer.signToken(a)
		}
		if a.err != nil {
			c.log.ErrorContext(ctx, "a credential could not be made", "tenant", b.tenant,
				"entry", a.entryID, "serial", a.intent.Serial, "error", a.err)
			a.err = unavailable("sign", a.err)
		}
	}
}

// finish closes the records: abandoned for what could not be made; issued, soon,
// for what is released.
func (c *CA) finish(ctx context.Context, b *batch) {
	var made, failed []string
	for i := range b.asks {
		switch a := &b.asks[i]; {
		case a.err == nil:
			made = append(made, a.intent.Serial)
		case a.recorded:
			failed = append(failed, a.intent.Serial)
		}
	}
	c.closer.add(b.tenant, made)
	if len(failed) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	if err := c.store.FinishIntents(ctx, b.tenant, failed, false); err != nil {
		c.log.ErrorContext(ctx, "credentials that could not be made stay on record as intents", "tenant", b.tenant, "error", err)
	}
}

func (c *CA) report(ctx context.Context, b *batch) {
	var denials []audit.Event
	for i := range b.asks {
		a := &b.asks[i]
		c.metrics.count(ctx, b.kind, a.err)
		if identity.CodeOf(a.err) == identity.Denied {
			denials = append(denials, b.denial(a))
		}
	}
	c.recordDenials(ctx, b, denials)
	c.metrics.time(ctx, b.kind, c.now().Sub(b.begin))
}

func (b *batch) denial(a *ask) audit.Event {
	return audit.Event{
		Time:      b.begin,
		Tenant:    b.tenant,
		Actor:     b.node,
		Action:    "svid.issue",
		Object:    identity.Clip(a.entryID),
		Outcome:   audit.Denied,
		Reason:    identity.MessageOf(a.err),
		RequestID: identity.Clip(a.requestID),
	}
}

// recordDenials leaves the audit events of a batch in one transaction, also if
// the agent has left meanwhile. The denials stand if that fails.
func (c *CA) recordDenials(ctx context.Context, b *batch, events []audit.Event) {
	if len(events) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	if err := c.store.RecordEvents(ctx, b.tenant, events); err != nil {
		c.log.ErrorContext(ctx, "denials could not be recorded", "tenant", b.tenant, "count", len(events), "error", err)
	}
}
