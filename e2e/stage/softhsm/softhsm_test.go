package softhsm

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/authsec-ai/icp/e2e/stage"
)

func TestProve(t *testing.T) { t.Logf("%+v", Prove(t)) }

// TestTokensAreApart checks that a token's keys and PIN are its own, and that a
// process sees the token that its environment names.
func TestTokensAreApart(t *testing.T) {
	a, b := NewToken(t), NewToken(t)
	a.PKCS11Tool(t, "--keypairgen", "--key-type", "EC:prime256v1", "--id", "01", "--label", "of a")
	if listed := b.PKCS11Tool(t, "--list-objects"); strings.Contains(listed, "of a") {
		t.Errorf("one token shows the other's key:\n%s", listed)
	}
	mixed := *a
	mixed.PIN = b.PIN
	if out, err := mixed.Command(t, "--list-objects").CombinedOutput(); err == nil || !bytes.Contains(out, []byte("CKR_PIN_INCORRECT")) {
		t.Errorf("one token takes the other's PIN: %v\n%s", err, out)
	}
	a.Setenv(t)
	tool := a.Command(t, "--list-objects")
	tool.Env = os.Environ()
	if listed := stage.Output(t, tool); !strings.Contains(listed, "of a") {
		t.Errorf("in this process's environment the key is not seen:\n%s", listed)
	}
}

// TestSecurityOfficer checks that the officer's PIN, and no other, sets the user's.
func TestSecurityOfficer(t *testing.T) {
	k := NewToken(t)
	renewed := *k
	renewed.PIN = "another PIN"
	renew := []string{"--init-pin", "--login-type", "so", "--so-pin"}
	out, err := renewed.Command(t, append(renew, k.PIN)...).CombinedOutput()
	if err == nil || !bytes.Contains(out, []byte("CKR_PIN_INCORRECT")) {
		t.Errorf("the user passes for the officer: %v\n%s", err, out)
	}
	k.PKCS11Tool(t, "--list-objects")
	renewed.PKCS11Tool(t, append(renew, k.SOPIN)...)
	renewed.PKCS11Tool(t, "--list-objects")
}

// TestValueOfNothing checks that what can't be asked is no refusal.
func TestValueOfNothing(t *testing.T) {
	k := NewToken(t)
	cmd := exec.Command(stage.Find(t, "ICP_PYTHON", "python3"), "-c", askForValue, k.Module, k.Label, k.PIN, "privkey", "01")
	cmd.Env = append(os.Environ(), k.Env()...)
	if out, err := cmd.CombinedOutput(); err == nil || !bytes.Contains(out, []byte("0 keys of class privkey with id 01")) {
		t.Errorf("a key that is not there: %v\n%s", err, out)
	}
}
