package swtpm

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-tpm/tpm2"
)

func TestProve(t *testing.T) { t.Logf("%+v", Prove(t)) }

// TestRestart checks what a reboot forgets and what it keeps.
func TestRestart(t *testing.T) {
	m := Start(t)
	tpm := m.Open(t)
	fresh := m.PCRs(t, 0, 16)
	ek := mustCreate(t, tpm, tpm2.TPMRHEndorsement, tpm2.ECCEKTemplate)
	m.Extend(t, 0, []byte("firmware"))
	m.Extend(t, 16, []byte("program"))
	for pcr, event := range map[uint]string{0: "firmware", 16: "program"} {
		if got, want := m.PCRs(t, pcr)[pcr], extended(fresh[pcr], []byte(event)); !bytes.Equal(got, want) {
			t.Errorf("PCR %d after an event: %x, want %x", pcr, got, want)
		}
	}
	m.Restart(t)
	if got := m.PCRs(t, 0, 16); !bytes.Equal(digestOf(got), digestOf(fresh)) {
		t.Errorf("PCRs after a reboot: %x, want %x", got, fresh)
	}
	if _, err := (tpm2.ReadPublic{ObjectHandle: ek.handle}).Execute(tpm); !errors.Is(err, tpm2.TPMRCReferenceH0) {
		t.Errorf("a transient key after a reboot: %v, want TPM_RC_REFERENCE_H0", err)
	}
	if cert := m.certificate(t, p256CertificateIndex); !cert.Equal(m.EKCertificate) {
		t.Error("the endorsement key's certificate changes with a reboot")
	}
	again := mustCreate(t, tpm, tpm2.TPMRHEndorsement, tpm2.ECCEKTemplate)
	defer again.flush()
	if !bytes.Equal(again.name.Buffer, ek.name.Buffer) {
		t.Error("the endorsement key changes with a reboot")
	}
}

// TestDevice checks what a program meets that comes to the TPM as it is.
func TestDevice(t *testing.T) {
	tpm := Start(t).Open(t)
	if _, err := (tpm2.Startup{StartupType: tpm2.TPMSUClear}).Execute(tpm); !errors.Is(err, tpm2.TPMRCInitialize) {
		t.Errorf("a second TPM2_Startup: %v, want TPM_RC_INITIALIZE", err)
	}
	for range 3 {
		defer mustCreate(t, tpm, tpm2.TPMRHOwner, akTemplate).flush()
	}
	if _, err := createPrimary(tpm, tpm2.TPMRHOwner, akTemplate); !errors.Is(err, tpm2.TPMRCObjectMemory) {
		t.Errorf("a fourth transient object: %v, want TPM_RC_OBJECT_MEMORY", err)
	}
}

// TestQuoteRefusals checks that each check of a quote refuses by itself.
func TestQuoteRefusals(t *testing.T) {
	m := Start(t)
	tpm := m.Open(t)
	ak := mustCreate(t, tpm, tpm2.TPMRHOwner, akTemplate)
	defer ak.flush()
	other := mustCreate(t, tpm, tpm2.TPMRHEndorsement, akTemplate)
	defer other.flush()
	nonce, pcrs := newNonce(), m.PCRs(t, 0, 7, 16)
	q := mustQuote(t, tpm, ak, nonce)

	expect(t, "the quote", verifyQuote(ak.public, q, nonce, pcrs), nil)
	expect(t, "by another key", verifyQuote(other.public, q, nonce, pcrs), errSignature)
	expect(t, "with another nonce", verifyQuote(ak.public, q, newNonce(), pcrs), errNonce)
	expect(t, "over fewer PCRs than asked", verifyQuote(ak.public, q, nonce, m.PCRs(t, 0, 1, 7, 16)), errSelection)
	expect(t, "over more PCRs than asked", verifyQuote(ak.public, q, nonce, m.PCRs(t, 0, 7)), errSelection)
	pcrs[7] = extended(pcrs[7], []byte("another"))
	expect(t, "with another PCR", verifyQuote(ak.public, q, nonce, pcrs), errPCRs)

	certified, err := tpm2.Certify{
		ObjectHandle:   tpm2.AuthHandle{Handle: other.handle, Name: other.name, Auth: tpm2.PasswordAuth(nil)},
		SignHandle:     tpm2.AuthHandle{Handle: ak.handle, Name: ak.name, Auth: tpm2.PasswordAuth(nil)},
		QualifyingData: tpm2.TPM2BData{Buffer: nonce},
		InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
	}.Execute(tpm)
	if err != nil {
		t.Fatal(err)
	}
	no := &tpm2.QuoteResponse{Quoted: certified.CertifyInfo, Signature: certified.Signature}
	expect(t, "of a key, not of PCRs", verifyQuote(ak.public, no, nonce, pcrs), errNoQuote)
}

// TestNoChallengeForOrdinaryKeys checks that a key which signs whatever it is
// given gets no credential.
func TestNoChallengeForOrdinaryKeys(t *testing.T) {
	m := Start(t)
	tpm := m.Open(t)
	loose := akTemplate
	loose.ObjectAttributes.Restricted = false
	k := mustCreate(t, tpm, tpm2.TPMRHOwner, loose)
	defer k.flush()
	if _, _, err := newChallenge(m.EKCertificate, k.public); !errors.Is(err, errNoAK) {
		t.Errorf("an unrestricted key: %v, want %v", err, errNoAK)
	}
	if err := verifyEK(m.ManufacturerCAs[1], m.ManufacturerCAs); err == nil {
		t.Error("a certificate that is not an endorsement key's passed for one")
	}
}
