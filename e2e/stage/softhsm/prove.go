package softhsm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/authsec-ai/icp/e2e/stage"
)

// Prove shows that a key made in the token signs and stays: its value is refused
// for being sensitive while that of a key made to be read is given, a wrong PIN
// is refused, and what lies in the token's folder has no private key in plain.
func Prove(t stage.T) stage.Proof {
	t.Helper()
	from := time.Now()
	k := NewToken(t)
	k.PKCS11Tool(t, "--list-objects")
	proof := stage.Proof{Version: version(t), Ready: time.Since(from)}
	access := k.proveGenerated(t)
	refused := k.proveUnreadable(t)
	wrongPIN := k.provePIN(t)
	files := k.proveEncrypted(t)
	proof.Fact = fmt.Sprintf("P-256 key is %s, and signs; its value: %s (that of an extractable AES key: read); "+
		"wrong PIN: %s (true one: accepted); an imported key's bytes: in none of %d files (as public data: in 1)",
		access, refused, wrongPIN, files)
	return proof
}

func version(t stage.T) string {
	t.Helper()
	return strings.TrimSpace(stage.Output(t, exec.Command(utility(t), "--version")))
}

// The ids of the keys that the proof makes.
const (
	generated = "01" // P-256, never to leave
	readable  = "02" // AES, made to be read
	imported  = "03" // P-256, known from outside
)

// proveGenerated makes a P-256 key in the token and gives what the token says of
// the private one.
func (k *Token) proveGenerated(t stage.T) string {
	t.Helper()
	k.PKCS11Tool(t, "--keypairgen", "--key-type", "EC:prime256v1", "--sensitive", "--usage-sign", "--id", generated, "--label", "generated")
	listed := k.PKCS11Tool(t, "--list-objects", "--type", "privkey")
	_, access, _ := strings.Cut(listed, "Access:")
	access, _, _ = strings.Cut(strings.TrimSpace(access), "\n")
	if access != "sensitive, always sensitive, never extractable, local" {
		t.Fatalf("the key pair made in the token is not one that never leaves it:\n%s", listed)
	}
	k.proveSignature(t, generated, k.publicKey(t, generated))
	return access
}

// publicKey has the token give the public half of a P-256 key.
func (k *Token) publicKey(t stage.T, id string) *ecdsa.PublicKey {
	t.Helper()
	file := filepath.Join(stage.Folder(t), "public")
	k.PKCS11Tool(t, "--read-object", "--type", "pubkey", "--id", id, "--output-file", file)
	der, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("read the public key: %v", err)
	}
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		t.Fatalf("read the public key: %v", err)
	}
	public, ok := key.(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P256() {
		t.Fatalf("the public key is %T, want one of P-256", key)
	}
	return public
}

// proveSignature checks that the token's key is the private half of public.
func (k *Token) proveSignature(t stage.T, id string, public *ecdsa.PublicKey) {
	t.Helper()
	dir := stage.Folder(t)
	digest, signed := filepath.Join(dir, "digest"), filepath.Join(dir, "signature")
	sum, other := sha256.Sum256([]byte("what the token signs")), sha256.Sum256([]byte("what it does not"))
	if err := os.WriteFile(digest, sum[:], 0o600); err != nil {
		t.Fatalf("sign in the token: %v", err)
	}
	k.PKCS11Tool(t, "--sign", "--mechanism", "ECDSA", "--signature-format", "openssl", "--id", id,
		"--input-file", digest, "--output-file", signed)
	signature, err := os.ReadFile(signed)
	if err != nil {
		t.Fatalf("sign in the token: %v", err)
	}
	if !ecdsa.VerifyASN1(public, sum[:], signature) {
		t.Fatalf("the signature of key %s does not verify by its public key", id)
	}
	if ecdsa.VerifyASN1(public, other[:], signature) {
		t.Fatalf("the signature of key %s verifies for what was not signed", id)
	}
}

// proveUnreadable asks for the value of the key that was made to stay and of one
// that was made to be read, and gives the refusal.
func (k *Token) proveUnreadable(t stage.T) string {
	t.Helper()
	_, err := k.Value(t, "privkey", generated)
	if err == nil || err.Error() != "CKR_ATTRIBUTE_SENSITIVE" {
		t.Fatalf("asked for a sensitive key's value, the token answers %v, not CKR_ATTRIBUTE_SENSITIVE", err)
	}
	k.PKCS11Tool(t, "--keygen", "--key-type", "AES:32", "--extractable", "--id", readable, "--label", "readable")
	value, twin := k.Value(t, "secrkey", readable)
	if twin != nil {
		t.Fatalf("the value of a key that may be read is refused: %v", twin)
	}
	if shown := k.PKCS11Tool(t, "--list-objects", "--type", "secrkey"); len(value) != 32 || !strings.Contains(shown, hex.EncodeToString(value)) {
		t.Fatalf("the value read is %x, not the one that pkcs11-tool shows:\n%s", value, shown)
	}
	return err.Error()
}

// provePIN gives how a wrong PIN is refused, and sees the right one accepted
// after it.
func (k *Token) provePIN(t stage.T) string {
	t.Helper()
	const refusal = "CKR_PIN_INCORRECT"
	wrong := *k
	wrong.PIN = k.SOPIN
	out, err := wrong.Command(t, "--list-objects").CombinedOutput()
	if err == nil || !strings.Contains(string(out), refusal) {
		t.Fatalf("a wrong PIN is not refused as %s: %v\n%s", refusal, err, out)
	}
	k.PKCS11Tool(t, "--list-objects")
	return refusal
}

// proveEncrypted puts a known private key into the token and looks for its bytes
// in the token's files, of which it gives the number; then it stores the same
// bytes for everybody to read and sees that it would have found them.
func (k *Token) proveEncrypted(t stage.T) int {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatalf("make a key: %v", err)
	}
	secret, err := key.Bytes()
	if err != nil {
		t.Fatalf("make a key: %v", err)
	}
	k.importKey(t, key)
	k.proveSignature(t, imported, &key.PublicKey) // it is in there
	secret = bytes.TrimLeft(secret, "\x00")       // as a number is stored
	files, plain := k.holding(t, secret)
	if len(plain) > 0 {
		t.Fatalf("the private key lies in plain in %s", plain)
	}
	file := filepath.Join(stage.Folder(t), "data")
	if err := os.WriteFile(file, secret, 0o600); err != nil {
		t.Fatalf("write the key as data: %v", err)
	}
	k.PKCS11Tool(t, "--write-object", file, "--type", "data", "--label", "public")
	if _, plain := k.holding(t, secret); len(plain) != 1 {
		t.Fatalf("the same bytes stored for everybody are in %d files: this check does not see what it looks for", len(plain))
	}
	return files
}

func (k *Token) importKey(t stage.T, key *ecdsa.PrivateKey) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatalf("write the key: %v", err)
	}
	file := filepath.Join(stage.Folder(t), "key.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatalf("write the key: %v", err)
	}
	k.PKCS11Tool(t, "--write-object", file, "--type", "privkey", "--usage-sign", "--id", imported, "--label", "imported")
}

// holding gives the number of the token's files and the names of those that have
// the bytes.
func (k *Token) holding(t stage.T, secret []byte) (files int, found []string) {
	t.Helper()
	err := filepath.WalkDir(k.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files++
		raw, err := os.ReadFile(path)
		if bytes.Contains(raw, secret) {
			found = append(found, d.Name())
		}
		return err
	})
	if err != nil || files == 0 {
		t.Fatalf("look through the token's %d files: %v", files, err)
	}
	return files, found
}
