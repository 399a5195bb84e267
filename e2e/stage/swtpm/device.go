package swtpm

import (
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// key is a transient key in a TPM.
type key struct {
	tpm    transport.TPM
	handle tpm2.TPMHandle
	name   tpm2.TPM2BName
	public tpm2.TPMTPublic
}

// createPrimary makes the key that a template stands for. The same TPM, hierarchy
// and template give the same key again. Flush it.
func createPrimary(tpm transport.TPM, hierarchy tpm2.TPMHandle, template tpm2.TPMTPublic) (*key, error) {
	made, err := tpm2.CreatePrimary{PrimaryHandle: hierarchy, InPublic: tpm2.New2B(template)}.Execute(tpm)
	if err != nil {
		return nil, fmt.Errorf("create a primary key: %w", err)
	}
	k := &key{tpm: tpm, handle: made.ObjectHandle, name: made.Name}
	public, err := made.OutPublic.Contents()
	if err != nil {
		k.flush()
		return nil, fmt.Errorf("create a primary key: %w", err)
	}
	k.public = *public
	return k, nil
}

// flush makes room for the next object.
func (k *key) flush() {
	_, _ = tpm2.FlushContext{FlushHandle: k.handle}.Execute(k.tpm) // a TPM that is full says so at the next key
}

// akTemplate stands for an attestation key: made in this TPM, bound to it, and
// restricted to sign only what the TPM itself has composed.
var akTemplate = tpm2.TPMTPublic{
	Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
	ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true,
		UserWithAuth: true, Restricted: true, SignEncrypt: true},
	Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
		CurveID: tpm2.TPMECCNistP256,
		Scheme: tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA,
			Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256})},
	}),
}

// activate has the TPM open a challenge. It does so only if it holds both the
// endorsement key and the attestation key that the challenge was made for.
func activate(tpm transport.TPM, ek, ak *key, c challenge) ([]byte, error) {
	byEndorsement := func(tpm transport.TPM, session tpm2.TPMISHPolicy, nonce tpm2.TPM2BNonce) error {
		_, err := tpm2.PolicySecret{PolicySession: session, NonceTPM: nonce,
			AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)}}.Execute(tpm)
		return err
	}
	opened, err := tpm2.ActivateCredential{
		ActivateHandle: tpm2.AuthHandle{Handle: ak.handle, Name: ak.name, Auth: tpm2.PasswordAuth(nil)},
		KeyHandle:      tpm2.AuthHandle{Handle: ek.handle, Name: ek.name, Auth: tpm2.Policy(tpm2.TPMAlgSHA256, 16, byEndorsement)},
		CredentialBlob: tpm2.TPM2BIDObject{Buffer: c.credential},
		Secret:         tpm2.TPM2BEncryptedSecret{Buffer: c.seed},
	}.Execute(tpm)
	if err != nil {
		return nil, fmt.Errorf("activate a credential: %w", err)
	}
	return opened.CertInfo.Buffer, nil
}

// quote has the TPM sign the state of PCRs together with a nonce.
func quote(tpm transport.TPM, ak *key, nonce []byte, pcrs ...uint) (*tpm2.QuoteResponse, error) {
	quoted, err := tpm2.Quote{
		SignHandle:     tpm2.AuthHandle{Handle: ak.handle, Name: ak.name, Auth: tpm2.PasswordAuth(nil)},
		QualifyingData: tpm2.TPM2BData{Buffer: nonce},
		InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull}, // the key's own
		PCRSelect:      sha256Bank(pcrs...),
	}.Execute(tpm)
	if err != nil {
		return nil, fmt.Errorf("quote PCRs %v: %w", pcrs, err)
	}
	return quoted, nil
}
