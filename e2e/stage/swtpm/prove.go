package swtpm

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/authsec-ai/icp/e2e/stage"
)

// Prove shows that a TPM's endorsement certificates are its own manufacturer's
// and no other's, that it opens a credential for its own attestation key and for
// no other, and that its quotes tell the state of its PCRs at this moment.
func Prove(t stage.T) stage.Proof {
	t.Helper()
	from := time.Now()
	m := Start(t)
	proof := stage.Proof{Version: version(t), Ready: time.Since(from)}
	other := Start(t)
	for _, kind := range endorsements {
		m.proveManufacturer(t, other, kind)
		m.proveActivation(t, other, kind)
	}
	before, after := m.proveQuote(t)
	proof.Fact = fmt.Sprintf("EK certificates (P-256, RSA 2048) from NV: hold under their CA, not under another TPM's; "+
		"credential for EK and AK: opened, with another AK TPM_RC_INTEGRITY, by another TPM refused, too; "+
		"quote of PCRs 0, 7, 16: accepted, after an event in 16: digest %.4x is not %.4x, replayed: wrong nonce, "+
		"with the event expected: accepted", after, before)
	return proof
}

func version(t stage.T) string {
	t.Helper()
	printed := strings.Fields(stage.Output(t, exec.Command(program(t), "--version"))) // "TPM emulator version 0.7.1, …"
	if len(printed) < 4 {
		t.Fatalf("swtpm --version printed %q", printed)
	}
	return strings.TrimSuffix(printed[3], ",")
}

// endorsement is a kind of endorsement key.
type endorsement struct {
	template    tpm2.TPMTPublic
	certificate func(*TPM) *x509.Certificate
	foreign     error // how the TPM refuses what was encrypted to another's key
}

// The TPM has no better answer to a wrong RSA-OAEP padding than TPM_RC_FAILURE;
// it goes on to work.
var endorsements = []endorsement{
	{tpm2.ECCEKTemplate, func(m *TPM) *x509.Certificate { return m.EKCertificate }, tpm2.TPMRCIntegrity},
	{tpm2.RSAEKTemplate, func(m *TPM) *x509.Certificate { return m.RSAEKCertificate }, tpm2.TPMRCFailure},
}

// proveManufacturer verifies a certificate under the CA of this TPM and of
// another.
func (m *TPM) proveManufacturer(t stage.T, other *TPM, kind endorsement) {
	t.Helper()
	cert := kind.certificate(m)
	if err := verifyEK(cert, m.ManufacturerCAs); err != nil {
		t.Fatalf("under the TPM's own CA: %v", err)
	}
	var unknown x509.UnknownAuthorityError
	if err := verifyEK(cert, other.ManufacturerCAs); !errors.As(err, &unknown) {
		t.Fatalf("under another TPM's CA: %v, want an unknown authority", err)
	}
}

// proveActivation has each of two TPMs open the challenge for its own keys, and
// sees those refused that are not: for another attestation key of the same TPM,
// and for this TPM's endorsement key with the other's attestation key, which
// neither can open.
func (m *TPM) proveActivation(t stage.T, other *TPM, kind endorsement) {
	t.Helper()
	mine, theirs := m.load(t, kind.template), other.load(t, kind.template)
	defer mine.flush()
	defer theirs.flush()
	second := node{tpm: mine.tpm, ek: mine.ek, ak: mustCreate(t, mine.tpm, tpm2.TPMRHEndorsement, akTemplate)}
	defer second.ak.flush()

	toMe, secret := mustChallenge(t, kind.certificate(m), mine.ak)
	mixed, _ := mustChallenge(t, kind.certificate(m), theirs.ak)
	toThem, theirSecret := mustChallenge(t, kind.certificate(other), theirs.ak)
	mine.mustOpen(t, toMe, secret)
	second.mustRefuse(t, toMe, tpm2.TPMRCIntegrity)
	mine.mustRefuse(t, mixed, tpm2.TPMRCIntegrity)
	theirs.mustRefuse(t, mixed, kind.foreign)
	theirs.mustOpen(t, toThem, theirSecret)
}

// node is what a machine has loaded into its TPM to attest itself.
type node struct {
	tpm    transport.TPM
	ek, ak *key
}

func (m *TPM) load(t stage.T, template tpm2.TPMTPublic) node {
	t.Helper()
	tpm := m.Open(t)
	return node{tpm: tpm, ek: mustCreate(t, tpm, tpm2.TPMRHEndorsement, template), ak: mustCreate(t, tpm, tpm2.TPMRHOwner, akTemplate)}
}

func (n node) flush() {
	n.ek.flush()
	n.ak.flush()
}

func (n node) mustOpen(t stage.T, c challenge, secret []byte) {
	t.Helper()
	if opened, err := activate(n.tpm, n.ek, n.ak, c); err != nil || !bytes.Equal(opened, secret) {
		t.Fatalf("the TPM does not open the credential for its own keys: %x, %v", opened, err)
	}
}

func (n node) mustRefuse(t stage.T, c challenge, want error) {
	t.Helper()
	if opened, err := activate(n.tpm, n.ek, n.ak, c); !errors.Is(err, want) {
		t.Fatalf("a credential for other keys: %x, %v, want %v", opened, err, want)
	}
}

func mustCreate(t stage.T, tpm transport.TPM, hierarchy tpm2.TPMHandle, template tpm2.TPMTPublic) *key {
	t.Helper()
	k, err := createPrimary(tpm, hierarchy, template)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return k
}

func mustChallenge(t stage.T, ek *x509.Certificate, ak *key) (challenge, []byte) {
	t.Helper()
	c, secret, err := newChallenge(ek, ak.public)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return c, secret
}

// proveQuote quotes PCRs before and after an event, holds the quotes against
// what was recorded and what is to be expected, and gives both digests.
func (m *TPM) proveQuote(t stage.T) (before, after []byte) {
	t.Helper()
	tpm := m.Open(t)
	ak := mustCreate(t, tpm, tpm2.TPMRHOwner, akTemplate)
	defer ak.flush()
	recorded := m.PCRs(t, 0, 7, 16)
	before = digestOf(recorded)
	nonce := newNonce()
	old := mustQuote(t, tpm, ak, nonce)
	expect(t, "a quote", verifyQuote(ak.public, old, nonce, recorded), nil)

	event := []byte("another program")
	m.Extend(t, 16, event)
	nonce = newNonce()
	fresh := mustQuote(t, tpm, ak, nonce)
	expect(t, "a quote after an event", verifyQuote(ak.public, fresh, nonce, recorded), errPCRs)
	expect(t, "the quote from before, replayed", verifyQuote(ak.public, old, nonce, recorded), errNonce)
	recorded[16] = extended(recorded[16], event) // as the event's log says
	expect(t, "a quote after an event that is expected", verifyQuote(ak.public, fresh, nonce, recorded), nil)
	return before, digestOf(recorded)
}

func newNonce() []byte {
	nonce := make([]byte, 32)
	rand.Read(nonce)
	return nonce
}

func mustQuote(t stage.T, tpm transport.TPM, ak *key, nonce []byte) *tpm2.QuoteResponse {
	t.Helper()
	q, err := quote(tpm, ak, nonce, 0, 7, 16)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return q
}

func expect(t stage.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Fatalf("%s: %v, want %v", what, got, want)
	}
}
