package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net/url"
	"time"

	"github.com/authsec-ai/icp/bench/internal/meter"
	"github.com/authsec-ai/icp/bench/internal/report"
	"github.com/authsec-ai/icp/e2e/stage"
)

const (
	floorSection = "Raw floor: the cryptography alone, one thread"
	floorSign    = "P-256 sign"
	floorIssue   = "issue: CSR in, certificate out"
)

// floor measures what nobody who issues certificates in Go can go below.
func floor(t stage.T, o options, r *report.Report) error {
	f, err := newFloorWork()
	if err != nil {
		return err
	}
	for range o.rounds {
		for _, w := range f.steps() {
			if err := t.Context().Err(); err != nil {
				return err
			}
			cost, err := perCall(time.Duration(o.pick(500, 20))*time.Millisecond, w.do)
			if err != nil {
				return fmt.Errorf("%s: %w", w.what, err)
			}
			if err := r.Add(report.Figure{Section: floorSection, What: w.what, Unit: "µs"}, cost*1e6); err != nil {
				return err
			}
		}
	}
	return nil
}

// perCall gives the CPU seconds of one call of f, from a run of at least half
// of span.
func perCall(span time.Duration, f func() error) (float64, error) {
	for n := 1; ; n *= 2 {
		var err error
		cost := meter.ThreadCPU(func() {
			for i := 0; i < n && err == nil; i++ {
				err = f()
			}
		})
		if err != nil || cost >= span/2 {
			return cost.Seconds() / float64(n), err
		}
	}
}

// floorWork is a certificate authority with nothing around it.
type floorWork struct {
	key    *ecdsa.PrivateKey
	issuer *x509.Certificate
	leaf   *x509.Certificate // to be made
	csr    []byte
	digest [sha256.Size]byte
	proof  []byte // signature of digest
}

func newFloorWork() (*floorWork, error) {
	w := &floorWork{digest: sha256.Sum256([]byte("bench"))}
	var err error
	if w.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	if w.proof, err = ecdsa.SignASN1(rand.Reader, w.key, w.digest[:]); err != nil {
		return nil, err
	}
	if w.csr, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, w.key); err != nil {
		return nil, err
	}
	w.leaf = newLeaf(&url.URL{Scheme: "spiffe", Host: "bench.example", Path: "/workload"})
	self := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}, NotBefore: w.leaf.NotBefore, NotAfter: w.leaf.NotAfter,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, self, self, w.key.Public(), w.key)
	if err != nil {
		return nil, err
	}
	w.issuer, err = x509.ParseCertificate(der)
	return w, err
}

// newLeaf is a workload's certificate, to be made.
func newLeaf(id *url.URL) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		NotBefore: now, NotAfter: now.Add(time.Hour), BasicConstraintsValid: true, URIs: []*url.URL{id},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
}

// step is one thing to do again and again.
type step struct {
	what string
	do   func() error
}

func (w *floorWork) steps() []step {
	return []step{
		{floorSign, w.sign},
		{"P-256 verify", w.verify},
		{"P-256 key generation", w.generate},
		{"CSR: parse and check its signature", func() error { _, err := w.readCSR(); return err }},
		{"x509.CreateCertificate (checks what it signed)", func() error { return w.create(w.key.Public()) }},
		{floorIssue, w.issue},
	}
}

func (w *floorWork) sign() error {
	_, err := ecdsa.SignASN1(rand.Reader, w.key, w.digest[:])
	return err
}

func (w *floorWork) verify() error {
	if !ecdsa.VerifyASN1(&w.key.PublicKey, w.digest[:], w.proof) {
		return fmt.Errorf("own signature is wrong")
	}
	return nil
}

func (w *floorWork) generate() error {
	_, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return err
}

func (w *floorWork) readCSR() (*x509.CertificateRequest, error) {
	req, err := x509.ParseCertificateRequest(w.csr)
	if err != nil {
		return nil, err
	}
	return req, req.CheckSignature()
}

func (w *floorWork) create(public any) error {
	serial := make([]byte, 16)
	_, _ = rand.Read(serial) // never fails
	leaf := *w.leaf
	leaf.SerialNumber = new(big.Int).SetBytes(serial)
	_, err := x509.CreateCertificate(rand.Reader, &leaf, w.issuer, public, w.key)
	return err
}

func (w *floorWork) issue() error {
	req, err := w.readCSR()
	if err != nil {
		return err
	}
	return w.create(req.PublicKey)
}
