// Package swtpm gives tests a TPM 2.0 made of software: swtpm on a Unix socket,
// with endorsement certificates in its NV memory from a private CA, as a
// manufacturer leaves them there.
//
// device.go has what a node does with its TPM and verifier.go what a server
// checks, in their shortest form; they prove the TPM and are no attestor.
package swtpm

import (
	"crypto/sha256"
	"crypto/x509"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"

	"github.com/authsec-ai/icp/e2e/stage"
)

// TPM is a TPM 2.0 with a SHA-256 bank of PCRs, all of them as at power-on, and
// empty passwords. It holds three transient objects at most and swaps none:
// flush what you load.
type TPM struct {
	Socket string // for linuxudstpm; every user may connect

	// The certificates of the endorsement keys, read from the TPM. Their subject
	// alternative name is critical and of a kind that crypto/x509 leaves to the
	// caller.
	EKCertificate    *x509.Certificate // of ECC P-256, by the TCG's template L-2
	RSAEKCertificate *x509.Certificate // of RSA 2048, by the TCG's template L-1

	// ManufacturerCAs are the private CA that signed the certificates: the root,
	// then what it signed. Every TPM has its own, under the same names.
	ManufacturerCAs []*x509.Certificate

	dir     string
	process *stage.Process
}

// Start makes a TPM and runs it until the test ends.
func Start(t stage.T) *TPM {
	t.Helper()
	dir := stage.Folder(t)
	m := &TPM{Socket: filepath.Join(dir, "tpm.sock"), dir: dir}
	m.manufacture(t)
	m.run(t)
	m.certifyP256(t)
	m.EKCertificate = m.certificate(t, p256CertificateIndex)
	m.RSAEKCertificate = m.certificate(t, rsaCertificateIndex)
	return m
}

func (m *TPM) state() string { return filepath.Join(m.dir, "state") }

func program(t stage.T) string {
	t.Helper()
	return stage.Find(t, "ICP_TEST_SWTPM", "swtpm")
}

// run starts swtpm, which starts the TPM up (TPM2_Startup(CLEAR)).
func (m *TPM) run(t stage.T) {
	t.Helper()
	m.process = stage.Start(t, "swtpm", exec.Command(program(t), "socket", "--tpm2", "--tpmstate", "dir="+m.state(),
		"--server", "type=unixio,path="+m.Socket+",mode=0666", "--flags", "not-need-init,startup-clear", "--log", "level=1"))
	m.process.WaitReady(t, 30*time.Second, func() error {
		tpm, err := linuxudstpm.Open(m.Socket)
		if err != nil {
			return err
		}
		defer tpm.Close()
		_, err = tpm2.GetRandom{BytesRequested: 8}.Execute(tpm)
		return err
	})
}

// Restart is a reboot: PCRs, sessions and transient objects are gone; seeds, NV
// memory and persistent objects stay.
func (m *TPM) Restart(t stage.T) {
	t.Helper()
	if _, err := (tpm2.Shutdown{ShutdownType: tpm2.TPMSUClear}).Execute(m.Open(t)); err != nil {
		t.Fatalf("shut the TPM down: %v", err)
	}
	m.process.Stop()
	m.run(t)
}

// Open gives a client of the TPM, closed when the test ends, for one goroutine.
// It makes a connection for each command, so it outlives a Restart. The TPM is
// started up: it answers TPM2_Startup with TPM_RC_INITIALIZE.
func (m *TPM) Open(t stage.T) transport.TPMCloser {
	t.Helper()
	tpm, err := linuxudstpm.Open(m.Socket)
	if err != nil {
		t.Fatalf("open the TPM: %v", err)
	}
	t.Cleanup(func() { _ = tpm.Close() }) // between commands there is nothing to close
	return tpm
}

// PCRs gives the values of PCRs in the SHA-256 bank.
func (m *TPM) PCRs(t stage.T, pcrs ...uint) map[uint][]byte {
	t.Helper()
	tpm := m.Open(t)
	values := map[uint][]byte{}
	for _, pcr := range pcrs {
		read, err := tpm2.PCRRead{PCRSelectionIn: sha256Bank(pcr)}.Execute(tpm)
		if err != nil {
			t.Fatalf("read PCR %d: %v", pcr, err)
		}
		if len(read.PCRValues.Digests) != 1 {
			t.Fatalf("read PCR %d: the TPM has no such PCR of SHA-256", pcr)
		}
		values[pcr] = read.PCRValues.Digests[0].Buffer
	}
	return values
}

// Extend measures an event into a PCR of the SHA-256 bank: its value becomes
// the hash of what it was and the event's hash.
func (m *TPM) Extend(t stage.T, pcr uint, event []byte) {
	t.Helper()
	digest := sha256.Sum256(event)
	_, err := tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
		Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: digest[:]}}},
	}.Execute(m.Open(t))
	if err != nil {
		t.Fatalf("extend PCR %d: %v", pcr, err)
	}
}

// sha256Bank selects PCRs of the SHA-256 bank.
func sha256Bank(pcrs ...uint) tpm2.TPMLPCRSelection {
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{
		{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(pcrs...)},
	}}
}
