// Package jointoken is the agent's side of attestation by a join token: a
// single-use secret that an administrator handed to this node.
package jointoken

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/authsec-ai/icp/internal/wire"
)

// Method is the name of this method on the wire.
const Method = "join_token"

// Evidence holds a join token, or the file that has it. The file is read when
// the node attests, so that a new token can be put there.
type Evidence struct {
	Token    string
	File     string
	NodeName string // wanted; the token may fix another
}

// Request gives the evidence.
func (e Evidence) Request(context.Context) (wire.AttestRequest, error) {
	token, err := e.token()
	if err != nil {
		return wire.AttestRequest{}, err
	}
	return wire.AttestRequest{Method: Method, Token: token, NodeID: e.NodeName}, nil
}

func (e Evidence) token() (string, error) {
	if e.Token != "" {
		return e.Token, nil
	}
	if e.File == "" {
		return "", errors.New("this node has no identity yet and no join token: make one with 'icp token create' and give it to the agent")
	}
	raw, err := os.ReadFile(e.File)
	if err != nil {
		return "", fmt.Errorf("read the join token: %w", err)
	}
	token := strings.TrimSpace(string(raw))
	if token == "" {
		return "", fmt.Errorf("join token file %s is empty", e.File)
	}
	return token, nil
}
