// Package disk is a key custody in a folder: one file per tenant that holds a
// 256-bit key for AES-GCM. It guards against everyone who cannot read the
// server's files, and against nobody who can.
//
// The folder belongs to the server's user with mode 0700 and the files have
// mode 0600; anything else, a symbolic link included, is refused. Keys are read
// at each use and not kept in memory, so that a destroyed key is gone at once.
package disk

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/authsec-ai/icp/server/keys"
)

const (
	keyBytes    = 32
	suffix      = ".kek"
	maxName     = 200 // bytes of a tenant id, so that the file name stays under 255
	formatAES   = 1   // first byte of what Wrap gives: AES-256-GCM, nonce in front
	wrappedHead = 1
)

// Custody keeps key-encryption keys in files.
type Custody struct{ dir string }

var _ keys.Custody = (*Custody)(nil)

// Open uses the folder dir, which it creates (mode 0700) if it is absent; the
// folder above must exist.
func Open(dir string) (*Custody, error) {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("create key folder: %w", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return nil, fmt.Errorf("open key folder: %w", err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("key folder %s is a %s, not a folder", dir, info.Mode().Type())
	}
	if err := checkOwned(dir, info, 0o700); err != nil {
		return nil, err
	}
	return &Custody{dir: dir}, nil
}

// Create makes the tenant's key unless it is there.
func (c *Custody) Create(_ context.Context, tenant string) error {
	path, err := c.path(tenant)
	if err != nil {
		return err
	}
	key := make([]byte, keyBytes)
	defer clear(key)
	rand.Read(key) // never fails
	err = writeNew(path, key)
	if errors.Is(err, fs.ErrExist) {
		_, err = c.aead(tenant) // it must be a key that we can use
	}
	if err != nil {
		return fmt.Errorf("create key of tenant %q: %w", tenant, err)
	}
	return nil
}

// Wrap encrypts plaintext under the tenant's key and binds it to aad.
func (c *Custody) Wrap(_ context.Context, tenant string, plaintext, aad []byte) ([]byte, error) {
	aead, err := c.aead(tenant)
	if err != nil {
		return nil, fmt.Errorf("wrap under the key of tenant %q: %w", tenant, err)
	}
	return aead.Seal([]byte{formatAES}, nil, plaintext, aad), nil
}

// Unwrap decrypts what Wrap gave for the same tenant and aad.
func (c *Custody) Unwrap(_ context.Context, tenant string, wrapped, aad []byte) ([]byte, error) {
	if len(wrapped) < wrappedHead || wrapped[0] != formatAES {
		return nil, fmt.Errorf("unwrap under the key of tenant %q: unknown format", tenant)
	}
	aead, err := c.aead(tenant)
	if err != nil {
		return nil, fmt.Errorf("unwrap under the key of tenant %q: %w", tenant, err)
	}
	plaintext, err := aead.Open(nil, nil, wrapped[wrappedHead:], aad)
	if err != nil {
		return nil, fmt.Errorf("unwrap under the key of tenant %q: it was wrapped by another key or for another use, or was changed", tenant)
	}
	return plaintext, nil
}

// Destroy overwrites and removes the tenant's key. Overwriting reaches the old
// bytes only on disks and file systems that write in place.
func (c *Custody) Destroy(_ context.Context, tenant string) error {
	path, err := c.path(tenant)
	if err != nil {
		return err
	}
	err = overwrite(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = os.Remove(path)
	}
	if err == nil {
		err = syncDir(c.dir)
	}
	if err != nil {
		return fmt.Errorf("destroy key of tenant %q: %w", tenant, err)
	}
	return nil
}

// path gives the file of a tenant's key. A tenant's id is a lower-case name
// that cannot leave the folder or be hidden in it.
func (c *Custody) path(tenant string) (string, error) {
	const allowed = "abcdefghijklmnopqrstuvwxyz0123456789-_."
	if tenant == "" || len(tenant) > maxName || tenant[0] == '.' || strings.Trim(tenant, allowed) != "" {
		return "", fmt.Errorf("tenant id %.64q cannot name a key file: use lower-case letters, digits, '-', '_' and '.', at most %d", tenant, maxName)
	}
	return filepath.Join(c.dir, tenant+suffix), nil
}

// aead reads the tenant's key and gives its cipher, which prepends a random
// nonce to what it seals.
func (c *Custody) aead(tenant string) (cipher.AEAD, error) {
	path, err := c.path(tenant)
	if err != nil {
		return nil, err
	}
	key, err := read(path)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// read gives the key in the file at path.
func read(path string) ([]byte, error) {
	f, err := open(path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	key := make([]byte, keyBytes+1) // one more, to notice a longer file
	n, err := f.Read(key)
	if err != nil && n == 0 {
		return nil, fmt.Errorf("read key file: %w", err)
	}
	if n != keyBytes {
		clear(key)
		return nil, fmt.Errorf("key file %s does not hold exactly %d bytes", path, keyBytes)
	}
	if [keyBytes]byte(key) == [keyBytes]byte{} {
		return nil, fmt.Errorf("key file %s was overwritten: the key is destroyed", path)
	}
	return key[:keyBytes], nil
}

// open opens a key file that must be ours alone.
func open(path string, flag int) (*os.File, error) {
	f, err := os.OpenFile(path, flag|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ELOOP) {
		return nil, fmt.Errorf("key file %s is a symbolic link", path)
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("key file %s is not a regular file", path)
	}
	if err == nil {
		err = checkOwned(path, info, 0o600)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// checkOwned refuses what others could read, change or replace.
func checkOwned(path string, info fs.FileInfo, mode fs.FileMode) error {
	if info.Mode().Perm() != mode {
		return fmt.Errorf("%s has mode %04o; it holds keys and must have %04o: chmod %o %s",
			path, info.Mode().Perm(), mode, mode, path)
	}
	if sys, ok := info.Sys().(*syscall.Stat_t); !ok || int(sys.Uid) != os.Geteuid() {
		return fmt.Errorf("%s holds keys and must belong to the user that runs the server (uid %d)", path, os.Geteuid())
	}
	return nil
}

// writeNew puts data at path, whole and on disk, or not at all. A file that is
// there is kept and gives fs.ErrExist.
func writeNew(path string, data []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".new-*") // mode 0600, O_EXCL
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil { // unlike a rename, it never replaces
		return err
	}
	return syncDir(dir)
}

func overwrite(path string) error {
	f, err := open(path, os.O_WRONLY)
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, keyBytes))
	return errors.Join(err, f.Sync(), f.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
