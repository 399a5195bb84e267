package kubernetes

import (
	"crypto/ecdsa"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/authsec-ai/icp/e2e/stage"
)

// Token asks the API server for a ServiceAccount's token. An empty audience
// stands for the API server's own; ttl has at least ten minutes, and 0 stands for
// an hour.
func (c *ControlPlane) Token(t stage.T, namespace, serviceAccount, audience string, ttl time.Duration) string {
	t.Helper()
	spec := map[string]any{}
	if audience != "" {
		spec["audiences"] = []string{audience}
	}
	if ttl != 0 {
		spec["expirationSeconds"] = int64(ttl.Seconds())
	}
	var answer struct{ Status struct{ Token string } }
	path := fmt.Sprintf("/api/v1/namespaces/%s/serviceaccounts/%s/token", namespace, serviceAccount)
	c.must(t, http.MethodPost, path, map[string]any{"spec": spec}, &answer)
	return answer.Status.Token
}

// Review is what the API server says of a token.
type Review struct {
	Authenticated bool
	User          string              // "system:serviceaccount:NAMESPACE:NAME"
	UID           string              // of the ServiceAccount
	Groups        []string            //
	Extra         map[string][]string // the pod and node that the token is bound to, by Kubernetes' keys
	Audiences     []string            // those asked for that the token has
	Error         string              // why it is refused
}

// Review has the API server judge a token (TokenReview). No audiences stand for
// the API server's own.
func (c *ControlPlane) Review(t stage.T, token string, audiences ...string) Review {
	t.Helper()
	question := map[string]any{
		"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
		"spec": map[string]any{"token": token, "audiences": audiences},
	}
	var answer struct {
		Status struct {
			Authenticated bool
			User          struct {
				Username, UID string
				Groups        []string
				Extra         map[string][]string
			}
			Audiences []string
			Error     string
		}
	}
	c.must(t, http.MethodPost, "/apis/authentication.k8s.io/v1/tokenreviews", question, &answer)
	s := answer.Status
	return Review{s.Authenticated, s.User.Username, s.User.UID, s.User.Groups, s.User.Extra, s.Audiences, s.Error}
}

// Resign gives a token with the same header as token and its claims as change
// leaves them, signed with key: the cluster's SigningKey makes what the API server
// would have issued, another key a forgery. A nil change leaves the claims.
func Resign(t stage.T, token string, key *ecdsa.PrivateKey, change func(claims map[string]any)) string {
	t.Helper()
	old, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatalf("read a token: %v", err)
	}
	claims := map[string]any{}
	if err := json.Unmarshal(old.UnsafePayloadWithoutVerification(), &claims); err != nil {
		t.Fatalf("read a token's claims: %v", err)
	}
	if change != nil {
		change(claims)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatalf("write a token's claims: %v", err)
	}
	as := jose.JSONWebKey{Key: key, KeyID: old.Signatures[0].Header.KeyID}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: as}, nil)
	if err != nil {
		t.Fatalf("sign a token: %v", err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		t.Fatalf("sign a token: %v", err)
	}
	compact, err := signed.CompactSerialize()
	if err != nil {
		t.Fatalf("sign a token: %v", err)
	}
	return compact
}
