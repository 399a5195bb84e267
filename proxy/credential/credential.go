// Package credential keeps the secrets that the proxy shows to upstreams in its
// callers' stead, and keeps them from coming back in an answer.
package credential

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// Config says which header carries the secret that a file holds.
type Config struct {
	Header string `yaml:"header"` // for example Authorization
	Prefix string `yaml:"prefix"` // written before the secret, for example "Bearer "
	File   string `yaml:"file"`   // holds the secret and nothing else; read again when it changes
}

const maxFileBytes = 16 << 10

// File is a secret in a file. It follows changes of the file; a change that
// can't be read leaves the secret as it was.
type File struct {
	config Config
	now    func() time.Time

	mu      sync.Mutex
	secret  string
	version version
	looked  time.Time // when the file was last looked at
}

// version tells whether the file changed.
type version struct {
	modified time.Time
	size     int64
}

// Open reads the secret for the first time.
func Open(config Config, now func() time.Time) (*File, error) {
	if config.Header == "" || config.File == "" {
		return nil, fmt.Errorf("a credential needs header and file")
	}
	if http.CanonicalHeaderKey(config.Header) == "Host" || strings.ContainsAny(config.Header, " \t\r\n:_") {
		return nil, fmt.Errorf("credential header %q can't be used", config.Header)
	}
	f := &File{config: config, now: now}
	if err := f.read(); err != nil {
		return nil, err
	}
	f.looked = now()
	return f, nil
}

// Header gives the canonical name of the header that carries the secret.
func (f *File) Header() string { return http.CanonicalHeaderKey(f.config.Header) }

// Value gives the header's value and the bare secret in it.
func (f *File) Value() (value, secret string) {
	const every = time.Second
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := f.now(); now.Sub(f.looked) >= every {
		f.looked = now
		_ = f.read() // keeps the last good secret
	}
	return f.config.Prefix + f.secret, f.secret
}

// read takes the secret from the file if the file changed.
func (f *File) read() error {
	info, err := os.Stat(f.config.File)
	if err != nil {
		return fmt.Errorf("read the credential: %w", err)
	}
	current := version{info.ModTime(), info.Size()}
	if current == f.version {
		return nil
	}
	if info.Size() > maxFileBytes {
		return fmt.Errorf("credential file %s is %d bytes long; the limit is %d", f.config.File, info.Size(), maxFileBytes)
	}
	raw, err := os.ReadFile(f.config.File)
	if err != nil {
		return fmt.Errorf("read the credential: %w", err)
	}
	secret := strings.TrimSpace(string(raw))
	if err := check(secret); err != nil {
		return fmt.Errorf("credential file %s: %w", f.config.File, err)
	}
	f.secret, f.version = secret, current
	return nil
}

// check refuses what can't stand in a header, without saying what it is.
func check(secret string) error {
	if secret == "" {
		return fmt.Errorf("it is empty")
	}
	for _, c := range []byte(secret) {
		if c < ' ' || c >= 0x7f {
			return fmt.Errorf("it has a character that can't stand in a header; it must be one line of ASCII")
		}
	}
	return nil
}
