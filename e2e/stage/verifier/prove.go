package verifier

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"strings"
	"time"

	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/internal/corpus"
)

// ProveNginx shows that nginx takes the chain of one tenant and refuses the same
// ID from another's anchor.
func ProveNginx(t stage.T) stage.Proof {
	t.Helper()
	return prove(t, Nginx(t), "unable to get local issuer certificate")
}

// ProveHAProxy shows the same of HAProxy.
func ProveHAProxy(t stage.T) stage.Proof {
	t.Helper()
	return prove(t, HAProxy(t), "ssl_c_ca_err=20") // unable to get local issuer certificate
}

// ProveOpenSSL shows the same of OpenSSL's s_server.
func ProveOpenSSL(t stage.T) stage.Proof {
	t.Helper()
	return prove(t, OpenSSL(t), "unable to get local issuer certificate")
}

// ProveGnuTLS shows the same of gnutls-serv.
func ProveGnuTLS(t stage.T) stage.Proof {
	t.Helper()
	return prove(t, GnuTLS(t), "The certificate issuer is unknown")
}

// ProveJava shows the same of Java.
func ProveJava(t stage.T) stage.Proof {
	t.Helper()
	return prove(t, Java(t), "unable to find valid certification path")
}

// ProvePython shows the same of Python's module ssl.
func ProvePython(t stage.T) stage.Proof {
	t.Helper()
	return prove(t, Python(t), "unable to get local issuer certificate")
}

// ProvePyca shows the same of pyca/cryptography.
func ProvePyca(t stage.T) stage.Proof {
	t.Helper()
	return prove(t, Pyca(t), "candidates exhausted")
}

// ProvePostgres shows the same of PostgreSQL.
func ProvePostgres(t stage.T) stage.Proof {
	t.Helper()
	return prove(t, Postgres(t), "unable to get local issuer certificate")
}

// prove has a verifier take a tenant's chain and refuse a stranger's, who claims
// the same ID, for want of an issuer that it knows.
func prove(t stage.T, v Verifier, unknownIssuer string) stage.Proof {
	t.Helper()
	w, err := corpus.New(time.Now())
	if err != nil {
		t.Fatalf("make certificates: %v", err)
	}
	anchor, err := x509.ParseCertificate(w.A.Anchor.DER)
	if err != nil {
		t.Fatalf("read an anchor: %v", err)
	}
	chain := func(by *corpus.Issuer) tls.Certificate {
		return tls.Certificate{Certificate: [][]byte{w.Leaf(by, nil), by.DER}, PrivateKey: w.LeafKey()}
	}
	from := time.Now()
	r := v.Start(t, []*x509.Certificate{anchor})
	if err := r.Ask(t, chain(w.A.Issuing)); err != nil {
		t.Fatalf("a tenant's own chain is refused: %v", err)
	}
	ready := time.Since(from)
	refusal := r.Ask(t, chain(w.B.Issuing))
	if refusal == nil || !strings.Contains(refusal.Error(), unknownIssuer) {
		t.Fatalf("a stranger's chain: %v; want a refusal that says %q", refusal, unknownIssuer)
	}
	return stage.Proof{Version: v.Version, Ready: ready,
		Fact: fmt.Sprintf("%s: accepted from its own anchor, refused from another's: %v", w.A.ID("/web"), refusal)}
}
