package kubernetes

import (
	"fmt"
	"strings"
	"time"

	"github.com/authsec-ai/icp/e2e/stage"
)

// ProveControlPlane shows that the API server accepts the token that it issued
// to a ServiceAccount, as that ServiceAccount's, and refuses the same one forged,
// expired or for someone else.
func ProveControlPlane(t stage.T) stage.Proof {
	t.Helper()
	c := StartControlPlane(t)
	c.Apply(t, `{apiVersion: v1, kind: Namespace, metadata: {name: demo}}`)
	c.Apply(t, `{apiVersion: v1, kind: ServiceAccount, metadata: {name: web, namespace: demo}}`)
	const user = "system:serviceaccount:demo:web"
	token := c.Token(t, "demo", "web", "icp", 10*time.Minute)
	expire := func(claims map[string]any) { claims["exp"] = time.Now().Add(-time.Minute).Unix() }
	for _, good := range []string{token, Resign(t, token, c.SigningKey, nil)} {
		if r := c.Review(t, good, "icp"); !r.Authenticated || r.User != user || fmt.Sprint(r.Audiences) != "[icp]" {
			t.Fatalf("a ServiceAccount's token is not accepted as its own: %+v", r)
		}
	}
	for _, bad := range []struct{ why, token, audience string }{
		{"error in cryptographic primitive", Resign(t, token, newKey(t), nil), "icp"},
		{"token has expired", Resign(t, token, c.SigningKey, expire), "icp"},
		{"invalid for the target audiences", token, "other"},
	} {
		if r := c.Review(t, bad.token, bad.audience); r.Authenticated || !strings.Contains(r.Error, bad.why) {
			t.Fatalf("a token that is refused with %q: %+v", bad.why, r)
		}
	}
	return stage.Proof{Version: c.Version, Ready: c.Ready,
		Fact: "TokenReview: true token is " + user + "; forged, expired and wrong-audience ones refused"}
}
