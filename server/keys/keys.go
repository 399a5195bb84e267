// Package keys defines the custody of tenants' key-encryption keys.
//
// Every signing key of a tenant is stored wrapped under a key-encryption key
// that only a Custody holds. Destroying that one key makes all the tenant's
// signing keys, and every copy of them in a backup, useless.
package keys

import "context"

// Custody keeps one key-encryption key per tenant. The key itself never leaves
// it: callers hand in plaintext and get back ciphertext, and the other way
// round. Implementations are safe for concurrent use.
type Custody interface {
	// Create makes the tenant's key. A key that exists is kept and is no error,
	// so that an interrupted creation of a tenant can be repeated.
	Create(ctx context.Context, tenant string) error
	// Wrap encrypts plaintext and binds it to aad.
	Wrap(ctx context.Context, tenant string, plaintext, aad []byte) ([]byte, error)
	// Unwrap gives the plaintext back. It fails if wrapped or aad are not, byte
	// for byte, those of one Wrap for the same tenant. The caller owns the
	// answer and clears it after use.
	Unwrap(ctx context.Context, tenant string, wrapped, aad []byte) ([]byte, error)
	// Destroy ends the tenant's key for good. An absent key is no error.
	Destroy(ctx context.Context, tenant string) error
}
