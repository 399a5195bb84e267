package node

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Names of the agent's files in its data folder.
const (
	sealedName = "agent-identity.sealed"
	keyName    = "agent-seal.key"
)

// header starts a sealed file and is authenticated with it.
const header = "icp agent identity 1\n"

// state is what is kept on disk, sealed.
type state struct {
	KeyDER []byte   `json:"key"`   // PKCS #8
	Chain  [][]byte `json:"chain"` // DER, leaf first; empty before the first attestation has succeeded
}

// vault keeps the state in a folder, AES-256-GCM encrypted.
type vault struct {
	path string
	aead cipher.AEAD
}

// openVault opens the folder's vault with the key in keyFile, which it makes if
// it is missing.
func openVault(dir, keyFile string) (*vault, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the agent's data folder: %w", err)
	}
	if keyFile == "" {
		keyFile = filepath.Join(dir, keyName)
	}
	key, err := readKey(keyFile)
	if errors.Is(err, fs.ErrNotExist) {
		key, err = makeKey(keyFile)
	}
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("key file %s: %w", keyFile, err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("key file %s: %w", keyFile, err)
	}
	return &vault{path: filepath.Join(dir, sealedName), aead: aead}, nil
}

const keyBytes = 32

func readKey(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("look at the key file: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("key file %s can be read by others (mode %04o): chmod 600 it", path, info.Mode().Perm())
	}
	key, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the key file: %w", err)
	}
	if len(key) != keyBytes {
		return nil, fmt.Errorf("key file %s has %d bytes and must have %d: remove it, and the agent attests anew", path, len(key), keyBytes)
	}
	return key, nil
}

func makeKey(path string) ([]byte, error) {
	key := make([]byte, keyBytes)
	_, _ = rand.Read(key) // never fails
	if err := replaceFile(path, key); err != nil {
		return nil, fmt.Errorf("make the key file: %w", err)
	}
	return key, nil
}

// errUnreadable says that there is a sealed file, but not for this key.
var errUnreadable = errors.New("the saved identity can't be opened with this key")

// load gives what was saved last. Nothing saved is fs.ErrNotExist.
func (v *vault) load() (state, error) {
	raw, err := os.ReadFile(v.path)
	if err != nil {
		return state{}, err
	}
	if len(raw) < len(header) || string(raw[:len(header)]) != header {
		return state{}, fmt.Errorf("%s: %w: it is no sealed identity", v.path, errUnreadable)
	}
	plain, err := v.aead.Open(nil, nil, raw[len(header):], []byte(header))
	if err != nil {
		return state{}, fmt.Errorf("%s: %w", v.path, errUnreadable)
	}
	var s state
	if err := json.Unmarshal(plain, &s); err != nil {
		return state{}, fmt.Errorf("%s: %w: %w", v.path, errUnreadable, err)
	}
	return s, nil
}

func (v *vault) save(s state) error {
	plain, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encode the agent's identity: %w", err)
	}
	if err := replaceFile(v.path, v.aead.Seal([]byte(header), nil, plain, []byte(header))); err != nil {
		return fmt.Errorf("save the agent's identity: %w", err)
	}
	return nil
}

// replaceFile writes a file that is whole or absent also after a crash, and
// readable for its owner only.
func replaceFile(path string, content []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // fails, as it should, once the file has its name
	_, err = tmp.Write(content)
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
