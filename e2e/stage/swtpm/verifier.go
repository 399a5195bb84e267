package swtpm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

var (
	subjectAlternativeName = asn1.ObjectIdentifier{2, 5, 29, 17}
	endorsementKeyUsage    = asn1.ObjectIdentifier{2, 23, 133, 8, 1} // tcg-kp-EKCertificate
)

// verifyEK checks that a certificate is one of an endorsement key and that a
// manufacturer, the first of cas, vouches for it.
func verifyEK(cert *x509.Certificate, cas []*x509.Certificate) error {
	if !slices.ContainsFunc(cert.UnknownExtKeyUsage, endorsementKeyUsage.Equal) {
		return errors.New("the certificate is not one of an endorsement key")
	}
	options := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}} // checked above
	options.Roots.AddCert(cas[0])
	for _, ca := range cas[1:] {
		options.Intermediates.AddCert(ca)
	}
	// The alternative name has the TPM's maker and model alone, in a form that
	// crypto/x509 does not read.
	read := *cert
	read.UnhandledCriticalExtensions = slices.DeleteFunc(slices.Clone(cert.UnhandledCriticalExtensions), subjectAlternativeName.Equal)
	if _, err := read.Verify(options); err != nil {
		return fmt.Errorf("verify the endorsement key's certificate: %w", err)
	}
	return nil
}

// encapsulationKey gives the endorsement key that a certificate names, as its
// template has it: the node's word is not needed.
func encapsulationKey(cert *x509.Certificate) (tpm2.LabeledEncapsulationKey, error) {
	var public tpm2.TPMTPublic
	switch k := cert.PublicKey.(type) {
	case *ecdsa.PublicKey:
		point, err := k.Bytes() // 4, then both coordinates
		if err != nil || k.Curve != elliptic.P256() {
			return nil, fmt.Errorf("the endorsement key is not of P-256 (%w)", err)
		}
		public = tpm2.ECCEKTemplate
		public.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: point[1:33]}, Y: tpm2.TPM2BECCParameter{Buffer: point[33:]}})
	case *rsa.PublicKey:
		public = tpm2.RSAEKTemplate
		public.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: k.N.Bytes()})
	default:
		return nil, fmt.Errorf("the endorsement key is a %T", k)
	}
	return tpm2.ImportEncapsulationKey(&public)
}

// challenge is a secret that only a TPM with a certain endorsement key can open,
// and only if it holds a certain attestation key, too.
type challenge struct {
	credential []byte // TPMS_ID_OBJECT
	seed       []byte // TPMU_ENCRYPTED_SECRET
}

// newChallenge makes a challenge for an attestation key and gives the secret in
// it. It refuses a key that could sign what no TPM has composed.
func newChallenge(ek *x509.Certificate, ak tpm2.TPMTPublic) (challenge, []byte, error) {
	is := ak.ObjectAttributes
	if !is.FixedTPM || !is.FixedParent || !is.SensitiveDataOrigin || !is.Restricted || !is.SignEncrypt || is.Decrypt {
		return challenge{}, nil, errNoAK
	}
	to, err := encapsulationKey(ek)
	if err != nil {
		return challenge{}, nil, err
	}
	name, err := tpm2.ObjectName(&ak) // computed, not taken from the node
	if err != nil {
		return challenge{}, nil, fmt.Errorf("name the attestation key: %w", err)
	}
	secret := make([]byte, 32)
	rand.Read(secret)
	credential, seed, err := tpm2.CreateCredential(rand.Reader, to, name.Buffer, secret)
	if err != nil {
		return challenge{}, nil, fmt.Errorf("make a credential: %w", err)
	}
	return challenge{credential, seed}, secret, nil
}

// Why a verifier refuses.
var (
	errNoAK      = errors.New("the key is not an attestation key bound to a TPM")
	errSignature = errors.New("the quote's signature is not the attestation key's")
	errNonce     = errors.New("the quote has another nonce")
	errSelection = errors.New("the quote is over other PCRs")
	errPCRs      = errors.New("the PCRs' digest differs")
	errNoQuote   = errors.New("the attestation is no quote")
)

// verifyQuote checks that the holder of an attestation key says, now, that the
// PCRs have these values.
func verifyQuote(ak tpm2.TPMTPublic, q *tpm2.QuoteResponse, nonce []byte, want map[uint][]byte) error {
	if !signedBy(ak, q) {
		return errSignature
	}
	said, err := q.Quoted.Contents() // checks that a TPM has composed it (TPM_GENERATED)
	if err != nil {
		return fmt.Errorf("read the quote: %w", err)
	}
	state, err := said.Attested.Quote()
	if err != nil || said.Type != tpm2.TPMSTAttestQuote {
		return errNoQuote
	}
	if !bytes.Equal(said.ExtraData.Buffer, nonce) {
		return errNonce
	}
	pcrs := slices.Sorted(maps.Keys(want))
	if !bytes.Equal(tpm2.Marshal(state.PCRSelect), tpm2.Marshal(sha256Bank(pcrs...))) {
		return errSelection
	}
	if !bytes.Equal(state.PCRDigest.Buffer, digestOf(want)) {
		return errPCRs
	}
	return nil
}

// signedBy checks the signature over what was quoted.
func signedBy(ak tpm2.TPMTPublic, q *tpm2.QuoteResponse) bool {
	public, err := tpm2.Pub(ak)
	if err != nil {
		return false
	}
	key, ok := public.(*ecdsa.PublicKey)
	signature, err := q.Signature.Signature.ECDSA()
	if err != nil || !ok {
		return false
	}
	digest := sha256.Sum256(q.Quoted.Bytes())
	return ecdsa.Verify(key, digest[:], number(signature.SignatureR), number(signature.SignatureS))
}

func number(p tpm2.TPM2BECCParameter) *big.Int { return new(big.Int).SetBytes(p.Buffer) }

// digestOf gives what a quote has of PCRs: the hash of their values, the lowest
// number first.
func digestOf(pcrs map[uint][]byte) []byte {
	hash := sha256.New()
	for _, pcr := range slices.Sorted(maps.Keys(pcrs)) {
		hash.Write(pcrs[pcr])
	}
	return hash.Sum(nil)
}

// extended gives a PCR's value after an event.
func extended(value, event []byte) []byte {
	digest := sha256.Sum256(event)
	sum := sha256.Sum256(append(slices.Clone(value), digest[:]...))
	return sum[:]
}
