package identity_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/authsec-ai/icp/identity"
)

func TestErrorCodes(t *testing.T) {
	cause := errors.New("disk on fire")
	inner := &identity.Error{Code: identity.NotFound, Message: "no entry e1", Err: cause}
	wrapped := fmt.Errorf("get entry: %w", inner)
	if identity.CodeOf(wrapped) != identity.NotFound || identity.MessageOf(wrapped) != "no entry e1" || !errors.Is(wrapped, cause) {
		t.Errorf("code %q, message %q", identity.CodeOf(wrapped), identity.MessageOf(wrapped))
	}
	if identity.CodeOf(nil) != "" || identity.CodeOf(cause) != identity.Internal {
		t.Error("an error without code is not internal, or nil has a code")
	}
	for _, secret := range []error{cause, identity.Errorf(identity.Internal, "password is x")} {
		if got := identity.MessageOf(secret); strings.Contains(got, "disk") || strings.Contains(got, "password") {
			t.Errorf("a caller is told %q", got)
		}
	}
}
