package chaos

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/authsec-ai/icp/internal/csr"
	"github.com/authsec-ai/icp/internal/wire"
)

// administrators is how many change entries at the same time, each their own.
const administrators = 3

// load is what administrators and nodes ask for between a start and a kill.
type load struct {
	*plane
	cycle int      // number of the start, in every name
	kept  *[]token // join tokens to use after the kill
}

// token is a join token and the node names that it is used for.
type token struct {
	id, text string
	names    []string
}

// run asks until ctx ends. Requests that are under way then are seen to their
// end: whoever ends ctx has killed the server, or wants the answers.
func (l *load) run(ctx context.Context, seed uint64, entries []listedEntry) {
	var group sync.WaitGroup
	for n := range administrators {
		a := &administrator{load: l, n: n, rng: l.rng(seed, n)}
		for i, e := range entries {
			if e.Hint != "" && i%administrators == n {
				a.mine = append(a.mine, e)
			}
		}
		group.Go(func() { a.run(ctx) })
	}
	group.Go(func() { l.letNodesIn(ctx, l.rng(seed, administrators)) })
	group.Wait()
}

func (l *load) rng(seed uint64, stream int) *rand.Rand {
	return rand.New(rand.NewPCG(seed, uint64(l.cycle)<<8|uint64(stream)))
}

func upTo(rng *rand.Rand, most time.Duration) time.Duration {
	return time.Duration(rng.Int64N(int64(most)))
}

// pause waits for a random time up to most; false if ctx has ended.
func pause(ctx context.Context, rng *rand.Rand, most time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(upTo(rng, most)):
		return ctx.Err() == nil
	}
}

// administrator changes entries that nobody else changes.
type administrator struct {
	*load
	n    int
	made int
	rng  *rand.Rand
	mine []listedEntry // that exist, as far as this administrator knows
}

// The number of entries that an administrator keeps.
const (
	fewest = 2
	most   = 8
)

func (a *administrator) run(ctx context.Context) {
	for pause(ctx, a.rng, 200*time.Millisecond) {
		dice := a.rng.IntN(100)
		switch n := len(a.mine); {
		case n < fewest, n < most && dice < 40:
			a.made++
			a.create(fmt.Sprintf("spiffe://%s/w/%d-%d-%d", a.info.TrustDomain, a.cycle, a.n, a.made), a.anyone())
		case n < most && dice < 65:
			a.update(a.young())
		default:
			a.remove(a.young())
		}
	}
}

// young gives an index of mine, of a late one rather than an early one, so that
// some entries grow old.
func (a *administrator) young() int {
	return max(a.rng.IntN(len(a.mine)), a.rng.IntN(len(a.mine)), a.rng.IntN(len(a.mine)))
}

// anyone gives a watched user, or with some luck nobody.
func (a *administrator) anyone() int {
	if a.rng.IntN(8) == 0 {
		return Nobody
	}
	return a.watched[a.rng.IntN(len(a.watched))]
}

func (a *administrator) body(id, tag string, owner int) map[string]any {
	return map[string]any{
		"spiffe_id": id, "parent_id": a.info.AgentID, "selectors": selectorsOf(owner), "hint": tag,
		"ttl": []string{"12s", "1m", "1h"}[a.rng.IntN(3)],
	}
}

func (a *administrator) create(id string, owner int) {
	a.made++
	tag := fmt.Sprintf("%d-%d-%d", a.cycle, a.n, a.made)
	var made listedEntry
	e := a.recorder.Begin(Event{Op: Create, Tag: tag, UID: owner})
	e = a.ask(context.Background(), e, http.MethodPost, workloads, a.body(id, tag, owner), &made)
	e.Entry = made.ID
	a.recorder.End(e)
	if e.Outcome == OK {
		a.mine = append(a.mine, made)
	}
}

func (a *administrator) update(i int) {
	old := a.mine[i]
	owner := a.anyone()
	e := a.recorder.Begin(Event{Op: Update, Tag: old.Hint, Entry: old.ID, UID: owner})
	e = a.ask(context.Background(), e, http.MethodPut, workloads+"/"+old.ID, a.body(old.SPIFFEID, old.Hint, owner), nil)
	a.recorder.End(e)
	if e.Outcome == OK {
		a.mine[i].Selectors = selectorsOf(owner)
		return
	}
	a.mine = slices.Delete(a.mine, i, i+1) // unknown until the next start
}

// remove deletes an entry, and sometimes makes another for the same identity.
func (a *administrator) remove(i int) {
	old := a.mine[i]
	a.mine = slices.Delete(a.mine, i, i+1)
	e := a.recorder.Begin(Event{Op: Delete, Tag: old.Hint, Entry: old.ID})
	e = a.ask(context.Background(), e, http.MethodDelete, workloads+"/"+old.ID, nil, nil)
	a.recorder.End(e)
	if e.Outcome == OK && a.rng.IntN(4) == 0 {
		a.create(old.SPIFFEID, ownerOf(old.Selectors))
	}
}

// letNodesIn makes join tokens and has several nodes use each at the same time.
// Some are used after the next kill for the first time, some again.
func (l *load) letNodesIn(ctx context.Context, rng *rand.Rand) {
	old := *l.kept
	*l.kept = nil
	for n := 0; pause(ctx, rng, 600*time.Millisecond); n++ {
		if len(old) > 0 {
			l.spendTogether(old[0])
			old = old[1:]
			continue
		}
		t, ok := l.makeToken(n, rng.IntN(2) == 0)
		if !ok {
			continue
		}
		later := rng.IntN(3)
		if later != 0 {
			l.spendTogether(t)
		}
		if later != 1 {
			*l.kept = append(*l.kept, t)
		}
	}
	*l.kept = append(*l.kept, old...)
}

// makeToken makes a token for one node name, or for whatever name a node has.
func (l *load) makeToken(n int, bound bool) (token, bool) {
	name := fmt.Sprintf("node-%d-%d", l.cycle, n)
	t := token{names: []string{name + "a", name + "b", name + "c"}}
	body := map[string]string{}
	if bound {
		t.names = []string{name, name, name}
		body["node_name"] = name
	}
	var made struct{ ID, Token string }
	e := l.recorder.Begin(Event{Op: Token})
	e = l.ask(context.Background(), e, http.MethodPost, "/api/v1/join-tokens", body, &made)
	e.Token, t.id, t.text = made.ID, made.ID, made.Token
	l.recorder.End(e)
	return t, e.Outcome == OK
}

func (l *load) spendTogether(t token) {
	var group sync.WaitGroup
	for _, name := range t.names {
		group.Go(func() { l.spend(t, name) })
	}
	group.Wait()
}

func (l *load) spend(t token, name string) {
	e := l.recorder.Begin(Event{Op: Spend, Token: t.id, Node: "spiffe://" + l.info.TrustDomain + "/agent/" + name})
	req := wire.AttestRequest{Method: "join_token", Token: t.text, NodeID: name}
	var answer wire.AttestResponse
	key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err == nil {
		req.CSR, err = csr.New(key)
	}
	if err != nil {
		e.Outcome, e.Detail = Refused, err.Error() // it was never sent
		l.recorder.End(e)
		return
	}
	e = l.ask(context.Background(), e, http.MethodPost, wire.PathAttest, req, &answer)
	if e.Outcome == OK {
		e.Shown, err = agentSVID(answer)
	}
	if err != nil {
		e.Detail = err.Error()
	}
	l.recorder.End(e)
}

func agentSVID(answer wire.AttestResponse) (*SVID, error) {
	block, _ := pem.Decode([]byte(answer.Certificate))
	if block == nil {
		return nil, errors.New("the answer holds no certificate")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("the certificate in the answer: %w", err)
	}
	s := svidOf(leaf, answer.SPIFFEID)
	return &s, nil
}

// svidOf notes a leaf.
func svidOf(leaf *x509.Certificate, id string) SVID {
	return SVID{Serial: hex.EncodeToString(leaf.SerialNumber.Bytes()), ID: id, Digest: digest(leaf.RawTBSCertificate), NotAfter: leaf.NotAfter}
}

func digest(signed []byte) string {
	sum := sha256.Sum256(signed)
	return hex.EncodeToString(sum[:8])
}
