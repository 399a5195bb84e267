// Package secret makes the bearer secrets that the server shows once and then
// keeps only as a hash: API tokens and join tokens.
package secret

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
)

// Prefixes say what a secret is, so that people and scanners recognise one.
const (
	APIToken  = "icp-api-"
	JoinToken = "icp-join-"
)

// bytes of entropy in a secret: 256 bits, so that a plain hash is enough at rest.
const size = 32

// New makes a secret with the prefix from random, and its hash.
func New(random io.Reader, prefix string) (text string, hash []byte, err error) {
	raw := make([]byte, size)
	if _, err := io.ReadFull(random, raw); err != nil {
		return "", nil, fmt.Errorf("make a secret: %w", err)
	}
	text = prefix + base64.RawURLEncoding.EncodeToString(raw)
	return text, Hash(text), nil
}

// Hash gives what is stored of a secret and looked up by: its SHA-256.
func Hash(text string) []byte {
	sum := sha256.Sum256([]byte(text))
	return sum[:]
}

// NewID makes a public handle with the prefix: 128 random bits in hex.
func NewID(random io.Reader, prefix string) (string, error) {
	raw := make([]byte, 16)
	if _, err := io.ReadFull(random, raw); err != nil {
		return "", fmt.Errorf("make an id: %w", err)
	}
	return prefix + hex.EncodeToString(raw), nil
}
