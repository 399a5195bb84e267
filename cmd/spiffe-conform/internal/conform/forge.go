package conform

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"slices"
)

// signES256 gives a compact JWS over header and payload.
func signES256(signed string, key *ecdsa.PrivateKey) (string, error) {
	digest := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		return "", fmt.Errorf("sign as a forger: %w", err)
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return signed + "." + base64url(signature), nil
}

func forgedCertificate(key *ecdsa.PrivateKey) ([]byte, error) {
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make a forger's certificate: %w", err)
	}
	return der, nil
}

// encoded gives JSON in base64url. All that comes here can be JSON.
func encoded(value any) string {
	raw, _ := json.Marshal(value)
	return base64url(raw)
}

func base64url(raw []byte) string { return base64.RawURLEncoding.EncodeToString(raw) }

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
