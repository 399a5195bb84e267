package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/authsec-ai/icp/agent/upstream"
	"github.com/authsec-ai/icp/bench/internal/meter"
	"github.com/authsec-ai/icp/bench/internal/report"
	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/e2e/stage/pg"
	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/internal/csr"
	"github.com/authsec-ai/icp/internal/wire"
)

// onSQLite measures issuing: icp-server runs as a process of its own, and this
// one is an agent that asks.
func onSQLite(t stage.T, o options, r *report.Report) error {
	return issueOn(t, o, recorder{r, "icp-server on SQLite"}, "")
}

// onPostgres measures the same on a PostgreSQL server of its own.
func onPostgres(t stage.T, o options, r *report.Report) error {
	db := pg.Start(t, pg.Options{Durable: true}).NewDatabase(t)
	return issueOn(t, o, recorder{r, "icp-server on PostgreSQL"}, db.OwnerDSN)
}

func issueOn(t stage.T, o options, rec recorder, dsn string) error {
	ctx := t.Context()
	c := newHost(t, o).startServer(dsn)
	a, err := newAsker(ctx, c)
	if err != nil {
		return err
	}
	defer a.client.Close()
	for range o.rounds {
		if err := a.measure(ctx, c.PID, o, rec); err != nil {
			return err
		}
	}
	return errors.Join(ratios(rec), rec.memory("icp-server", "≤ 45; SPIRE 57–67", c.PID, c.idle))
}

// asker is an agent that has attested and asks for the SVIDs of one entry.
type asker struct {
	client   *upstream.Client
	entry    registered
	selector identity.Selector
	csr      []byte
	requests atomic.Int64
}

func newAsker(ctx context.Context, c *controlPlane) (*asker, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	a := &asker{}
	if a.csr, err = csr.New(key); err != nil {
		return nil, err
	}
	if a.selector, err = identity.ParseSelector("unix:uid:1000"); err != nil {
		return nil, err
	}
	if a.client, err = attest(ctx, c); err != nil {
		return nil, err
	}
	a.entry, err = c.entry(ctx, nodeName, "/workload", a.selector.String())
	return a, err
}

// attest makes an agent of this process.
func attest(ctx context.Context, c *controlPlane) (*upstream.Client, error) {
	token, err := c.joinToken(ctx, nodeName)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	request, err := csr.New(key)
	if err != nil {
		return nil, err
	}
	var own *tls.Certificate
	client, err := upstream.New(upstream.Config{URL: c.url, Roots: c.roots,
		Certificate: func() (*tls.Certificate, error) { return own, nil }})
	if err != nil {
		return nil, err
	}
	answer, err := client.Attest(ctx, wire.AttestRequest{Method: "join_token", Token: token, CSR: request})
	if err != nil {
		return nil, fmt.Errorf("attest: %w", err)
	}
	own = certificate(answer.Certificate, key)
	return client, nil
}

func certificate(chain string, key crypto.PrivateKey) *tls.Certificate {
	cert := &tls.Certificate{PrivateKey: key}
	for rest := []byte(chain); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return cert
		}
		cert.Certificate = append(cert.Certificate, block.Bytes)
	}
}

// The figures of issuing.
const (
	issueSingle = "X.509-SVID, one per call"
	issueMany   = "X.509-SVID, one per call, 16 callers"
	issueBatch  = "X.509-SVID, batches of 100"
	issueJWT    = "JWT-SVID, one per call"
)

func (a *asker) measure(ctx context.Context, pid int, o options, rec recorder) error {
	one := func(int) (int, error) { return a.sign(ctx, 1) }
	for _, m := range []struct {
		what, aim string
		callers   int
		call      func(caller int) (int, error)
		more      func(got meter.Result) error
	}{
		{issueSingle, "≤ 480; SPIRE 1,070–1,580", 1, one, func(got meter.Result) error {
			return errors.Join(rec.latency(issueSingle, "< 1; SPIRE 1.1–1.7", "< 5; SPIRE 8–14", got), rec.rate(issueSingle, "", got))
		}},
		{issueMany, "≤ 480", 16, one, func(got meter.Result) error { return rec.rate(issueMany, "SPIRE 260–680", got) }},
		{issueBatch, "≤ 340; SPIRE 500–550", 1, func(int) (int, error) { return a.sign(ctx, 100) },
			func(got meter.Result) error { return rec.rate(issueBatch, "SPIRE 1,300–1,770", got) }},
		{issueJWT, "SPIRE 860–1,080", 1, func(int) (int, error) { return a.signJWT(ctx) },
			func(got meter.Result) error { return rec.latency(issueJWT, "", "", got) }},
	} {
		got, err := meter.Loop{PID: pid, Callers: m.callers, Span: o.span(), Call: m.call}.Run()
		if err != nil {
			return fmt.Errorf("%s: %w", m.what, err)
		}
		if err := errors.Join(rec.cpu(m.what, m.aim, got), m.more(got)); err != nil {
			return err
		}
	}
	return nil
}

// ratios hold the figures beside the floor of this run.
func ratios(rec recorder) error {
	return errors.Join(
		rec.ratio(issueSingle, floorIssue, "≤ 1.6"),
		rec.ratio(issueBatch, floorIssue, "≤ 1.1"),
		rec.ratio(issueJWT, floorSign, "≤ 3"))
}

// sign asks for n X.509-SVIDs in one call.
func (a *asker) sign(ctx context.Context, n int) (int, error) {
	items := make([]wire.SignItem, n)
	for i := range items {
		items[i] = wire.SignItem{RequestID: a.requestID(), EntryID: a.entry.ID, EntryRevision: a.entry.Revision,
			Selectors: identity.Selectors{a.selector}, Evidence: "bench", CSR: a.csr}
	}
	answer, err := a.client.Sign(ctx, wire.SignRequest{Items: items})
	if err != nil {
		return 0, err
	}
	for _, result := range answer.Results {
		if err := result.Error.Err(); err != nil {
			return 0, err
		}
	}
	return len(answer.Results), nil
}

// signJWT asks for one JWT-SVID.
func (a *asker) signJWT(ctx context.Context) (int, error) {
	answer, err := a.client.SignJWT(ctx, wire.SignJWTRequest{Items: []wire.SignJWTItem{{
		RequestID: a.requestID(), EntryID: a.entry.ID, EntryRevision: a.entry.Revision,
		Selectors: identity.Selectors{a.selector}, Evidence: "bench", Audience: []string{"bench"},
	}}})
	if err != nil {
		return 0, err
	}
	for _, result := range answer.Results {
		if err := result.Error.Err(); err != nil {
			return 0, err
		}
	}
	return len(answer.Results), nil
}

func (a *asker) requestID() string { return fmt.Sprintf("bench-%d", a.requests.Add(1)) }
