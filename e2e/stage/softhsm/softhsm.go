// Package softhsm gives tests a hardware security module made of software: a
// SoftHSM 2 token in a folder of its own, reached as every HSM is, by its
// PKCS#11 module. It has no process that stays.
package softhsm

import (
	"crypto/rand"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/authsec-ai/icp/e2e/stage"
)

// Token is an empty token that is ready for use.
type Token struct {
	Module     string // path of libsofthsm2.so
	Label      string // "icp"
	PIN        string // of the user; no other token has the same
	SOPIN      string // of the security officer
	ConfigFile string // names the token's folder, which stands beside it

	dir string
}

// NewToken makes a token that goes when the test ends. Other tests do not see
// it: whoever uses it needs Env or Setenv.
func NewToken(t stage.T) *Token {
	t.Helper()
	dir := stage.Folder(t)
	k := &Token{
		Module: stage.Find(t, "ICP_TEST_SOFTHSM", "libsofthsm2.so", "/usr/lib/softhsm/libsofthsm2.so",
			"/usr/lib64/softhsm/libsofthsm2.so", "/usr/lib/pkcs11/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so"),
		Label: "icp", PIN: rand.Text()[:12], SOPIN: rand.Text()[:12],
		ConfigFile: filepath.Join(dir, "softhsm2.conf"), dir: filepath.Join(dir, "tokens"),
	}
	if err := os.Mkdir(k.dir, 0o700); err != nil {
		t.Fatalf("make a token: %v", err)
	}
	config := fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n", k.dir)
	if err := os.WriteFile(k.ConfigFile, []byte(config), 0o644); err != nil {
		t.Fatalf("make a token: %v", err)
	}
	cmd := exec.Command(utility(t), "--module", k.Module, "--init-token", "--free",
		"--label", k.Label, "--pin", k.PIN, "--so-pin", k.SOPIN)
	cmd.Env = append(os.Environ(), k.Env()...)
	stage.Output(t, cmd)
	return k
}

func utility(t stage.T) string {
	t.Helper()
	return stage.Find(t, "ICP_TEST_SOFTHSM_UTIL", "softhsm2-util")
}

// Env gives what a program that uses the token needs in its environment.
func (k *Token) Env() []string { return []string{"SOFTHSM2_CONF=" + k.ConfigFile} }

// Setenv lets this process use the token until the test ends. A module that is
// loaded already, with another token, does not notice.
func (k *Token) Setenv(t testing.TB) {
	t.Helper()
	name, value, _ := strings.Cut(k.Env()[0], "=")
	t.Setenv(name, value)
}

// Command is pkcs11-tool with these arguments, logged in by the token's PIN, for
// who expects that it fails or looks at what it writes.
func (k *Token) Command(t stage.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(stage.Find(t, "ICP_TEST_PKCS11_TOOL", "pkcs11-tool"),
		append([]string{"--module", k.Module, "--token-label", k.Label, "--login", "--pin", k.PIN}, args...)...)
	cmd.Env = append(os.Environ(), k.Env()...)
	return cmd
}

// PKCS11Tool runs Command and gives what it printed; a failure fails the test
// with the output.
func (k *Token) PKCS11Tool(t stage.T, args ...string) string {
	t.Helper()
	return stage.Output(t, k.Command(t, args...))
}

//go:embed value.py
var askForValue string

// Value asks the module for the value (CKA_VALUE) of the one key of a class,
// "privkey" or "secrkey", with an id in hexadecimal. The error is the module's
// refusal by its PKCS#11 name, as "CKR_ATTRIBUTE_SENSITIVE"; no such key, or no
// login, fails the test. (pkcs11-tool never asks for a private key's value,
// whether or not it may be read.)
func (k *Token) Value(t stage.T, class, id string) ([]byte, error) {
	t.Helper()
	cmd := exec.Command(stage.Find(t, "ICP_PYTHON", "python3"), "-c", askForValue, k.Module, k.Label, k.PIN, class, id)
	cmd.Env = append(os.Environ(), k.Env()...)
	name, value, _ := strings.Cut(strings.TrimSpace(stage.Output(t, cmd)), " ")
	if name != "CKR_OK" {
		return nil, errors.New(name)
	}
	raw, err := hex.DecodeString(value)
	if err != nil {
		t.Fatalf("the value of %s %s is %q: %v", class, id, value, err)
	}
	return raw, nil
}
