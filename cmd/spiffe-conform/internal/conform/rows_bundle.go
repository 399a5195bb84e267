package conform

import (
	"context"
	"fmt"

	"github.com/authsec-ai/icp/cmd/spiffe-conform/internal/strict"
)

// bundleRows judge the JWT bundles. On the socket they are standard JWK Sets
// (SPIFFE Workload API section 6.2.2), so that use may be absent.
func bundleRows() []Row {
	return []Row{
		{ID: "JWT-16", Level: Must, Wants: "each JWT key has a kid of its own; its use, if given, is jwt-svid", check: keyNames},
		{ID: "TDB-02", Level: Must, Wants: "a JWT bundle is a JWK Set of public keys", check: keySets},
		{ID: "TDB-06", Level: Must, Wants: "a JWK Set has the list keys, which may be empty", check: keyLists},
		{ID: "TDB-07", Level: Must, Wants: "each key's type is one that signs JWT-SVIDs", check: keyTypes},
	}
}

func keyNames(_ context.Context, p *probe) (string, error) {
	seen := map[string]bool{}
	count, err := p.eachJWK(func(trustDomain string, jwk map[string]any) error {
		kid, ok := jwk["kid"].(string)
		switch use, given := jwk["use"]; {
		case !ok || kid == "":
			return fmt.Errorf("kid is %v", jwk["kid"])
		case seen[trustDomain+" "+kid]:
			return fmt.Errorf("the kid %q is there twice", kid)
		case given && use != "jwt-svid":
			return fmt.Errorf("use is %v", use)
		}
		seen[trustDomain+" "+kid] = true
		return nil
	})
	return fmt.Sprintf("%d keys", count), err
}

func keySets(_ context.Context, p *probe) (string, error) {
	count, err := p.eachJWK(func(_ string, jwk map[string]any) error { return second(strict.PublicKey(jwk)) })
	return fmt.Sprintf("%d keys", count), err
}

func keyLists(_ context.Context, p *probe) (string, error) {
	count, err := p.eachJWK(func(string, map[string]any) error { return nil })
	return fmt.Sprintf("%d keys", count), err
}

func keyTypes(_ context.Context, p *probe) (string, error) {
	count, err := p.eachJWK(func(_ string, jwk map[string]any) error { return second(strict.KeyType(jwk)) })
	return fmt.Sprintf("%d keys", count), err
}
