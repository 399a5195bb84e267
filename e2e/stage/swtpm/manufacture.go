package swtpm

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/authsec-ai/icp/e2e/stage"
)

// Where the certificates of endorsement keys lie in NV memory (TCG EK Credential
// Profile, low range).
const (
	rsaCertificateIndex  tpm2.TPMHandle = 0x01c00002
	p256CertificateIndex tpm2.TPMHandle = 0x01c0000a
)

// manufacture has swtpm_setup make the TPM's seeds, its private CA and the
// certificate of its RSA endorsement key, and reads the CA.
func (m *TPM) manufacture(t stage.T) {
	t.Helper()
	ca := filepath.Join(m.dir, "ca")
	m.write(t, "setup.conf", fmt.Sprintf("create_certs_tool = %s\ncreate_certs_tool_config = %s\ncreate_certs_tool_options = %s\n",
		localCA(t), m.file("ca.conf"), m.file("ca.options")))
	m.write(t, "ca.conf", fmt.Sprintf("statedir = %[1]s\nsigningkey = %[1]s/key.pem\nissuercert = %[1]s/issuer.pem\ncertserial = %[1]s/serial\n", ca))
	m.write(t, "ca.options", "")
	for _, dir := range []string{ca, m.state()} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatalf("make a TPM: %v", err)
		}
	}
	cmd := exec.Command(stage.Find(t, "ICP_TEST_SWTPM_SETUP", "swtpm_setup"), "--tpm", program(t)+" socket", "--tpm2",
		"--tpmstate", m.state(), "--config", m.file("setup.conf"), "--create-ek-cert", "--pcr-banks", "sha256")
	cmd.Env = append(os.Environ(), "TMPDIR="+m.dir)
	setup := stage.Start(t, "swtpm_setup", cmd)
	if err := setup.Err(); err != nil {
		t.Fatalf("make a TPM: swtpm_setup: %v\n%s", err, setup.Tail(4096))
	}
	for _, file := range []string{"swtpm-localca-rootca-cert.pem", "issuer.pem"} {
		m.ManufacturerCAs = append(m.ManufacturerCAs, readCertificate(t, filepath.Join(ca, file)))
	}
}

func localCA(t stage.T) string {
	t.Helper()
	return stage.Find(t, "ICP_TEST_SWTPM_LOCALCA", "swtpm_localca")
}

func (m *TPM) file(name string) string { return filepath.Join(m.dir, name) }

func (m *TPM) write(t stage.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(m.file(name), []byte(content), 0o600); err != nil {
		t.Fatalf("make a TPM: %v", err)
	}
}

func readCertificate(t stage.T, path string) *x509.Certificate {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("read the TPM's CA: %v", err)
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		t.Fatalf("read the TPM's CA: no PEM in %s", path)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatalf("read the TPM's CA: %v", err)
	}
	return cert
}

// certifyP256 has the CA certify the P-256 endorsement key, which swtpm_setup
// leaves out, and writes the certificate to its place in NV memory.
func (m *TPM) certifyP256(t stage.T) {
	t.Helper()
	tpm := m.Open(t)
	ek, err := createPrimary(tpm, tpm2.TPMRHEndorsement, tpm2.ECCEKTemplate)
	if err != nil {
		t.Fatalf("certify the P-256 endorsement key: %v", err)
	}
	defer ek.flush()
	point, err := ek.public.Unique.ECC()
	if err != nil {
		t.Fatalf("certify the P-256 endorsement key: %v", err)
	}
	cmd := exec.Command(localCA(t), "--type", "ek", "--ek", fmt.Sprintf("x=%x,y=%x,id=secp256r1", point.X.Buffer, point.Y.Buffer),
		"--dir", m.dir, "--configfile", m.file("ca.conf"), "--optsfile", m.file("ca.options"), "--tpm2",
		"--tpm-spec-family", "2.0", "--tpm-spec-level", "0", "--tpm-spec-revision", "164",
		"--tpm-manufacturer", "id:00001014", "--tpm-model", "swtpm", "--tpm-version", "id:20191023")
	stage.Output(t, cmd)
	der, err := os.ReadFile(m.file("ek.cert"))
	if err != nil {
		t.Fatalf("certify the P-256 endorsement key: %v", err)
	}
	if err := writeNV(tpm, p256CertificateIndex, der); err != nil {
		t.Fatalf("certify the P-256 endorsement key: %v", err)
	}
}

// certificate reads a certificate from the TPM's NV memory.
func (m *TPM) certificate(t stage.T, index tpm2.TPMHandle) *x509.Certificate {
	t.Helper()
	der, err := readNV(m.Open(t), index)
	if err != nil {
		t.Fatalf("read the endorsement key's certificate: %v", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatalf("read the endorsement key's certificate: %v", err)
	}
	return cert
}

// nvChunk is what every TPM reads and writes at once, in bytes.
const nvChunk = 512

// writeNV writes an index that only the platform, the maker, may change and
// everybody may read.
func writeNV(tpm transport.TPM, index tpm2.TPMHandle, content []byte) error {
	maker := tpm2.AuthHandle{Handle: tpm2.TPMRHPlatform, Auth: tpm2.PasswordAuth(nil)}
	_, err := tpm2.NVDefineSpace{AuthHandle: maker, PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
		NVIndex: index, NameAlg: tpm2.TPMAlgSHA256, DataSize: uint16(len(content)),
		Attributes: tpm2.TPMANV{PlatformCreate: true, PPWrite: true, WriteDefine: true,
			PPRead: true, OwnerRead: true, AuthRead: true, NoDA: true, NT: tpm2.TPMNTOrdinary},
	})}.Execute(tpm)
	if err != nil {
		return fmt.Errorf("define NV index %#x: %w", index, err)
	}
	for offset := 0; offset < len(content); offset += nvChunk {
		public, err := tpm2.NVReadPublic{NVIndex: index}.Execute(tpm) // its name changes with the first write
		if err != nil {
			return fmt.Errorf("look at NV index %#x: %w", index, err)
		}
		_, err = tpm2.NVWrite{AuthHandle: maker, NVIndex: tpm2.NamedHandle{Handle: index, Name: public.NVName},
			Offset: uint16(offset), Data: tpm2.TPM2BMaxNVBuffer{Buffer: content[offset:min(offset+nvChunk, len(content))]},
		}.Execute(tpm)
		if err != nil {
			return fmt.Errorf("write NV index %#x: %w", index, err)
		}
	}
	return nil
}

// readNV reads the whole of an index that everybody may read.
func readNV(tpm transport.TPM, index tpm2.TPMHandle) ([]byte, error) {
	found, err := tpm2.NVReadPublic{NVIndex: index}.Execute(tpm)
	if err != nil {
		return nil, fmt.Errorf("look at NV index %#x: %w", index, err)
	}
	public, err := found.NVPublic.Contents()
	if err != nil {
		return nil, fmt.Errorf("look at NV index %#x: %w", index, err)
	}
	content := make([]byte, 0, public.DataSize)
	for len(content) < int(public.DataSize) {
		read, err := tpm2.NVRead{
			AuthHandle: tpm2.AuthHandle{Handle: index, Name: found.NVName, Auth: tpm2.PasswordAuth(nil)},
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: found.NVName},
			Offset:     uint16(len(content)), Size: uint16(min(nvChunk, int(public.DataSize)-len(content))),
		}.Execute(tpm)
		if err != nil {
			return nil, fmt.Errorf("read NV index %#x: %w", index, err)
		}
		if len(read.Data.Buffer) == 0 {
			return nil, fmt.Errorf("read NV index %#x: it ends after %d of %d bytes", index, len(content), public.DataSize)
		}
		content = append(content, read.Data.Buffer...)
	}
	return content, nil
}
