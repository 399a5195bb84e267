package source

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/authsec-ai/icp/policy"
)

// FileConfig configures a File.
type FileConfig struct {
	Path  string        // of a policy.Set in YAML or JSON; required
	Every time.Duration // how often to look for changes; 0 means 250 ms
	Log   *slog.Logger  // required
}

// File follows a set in a file. The file may be replaced or written in place,
// and may be a symbolic link that moves, as in a mounted ConfigMap.
type File struct {
	status
	path  string
	every time.Duration

	info os.FileInfo       // of the content that was read last, nil if none was
	sum  [sha256.Size]byte // of that content
}

// NewFile checks cfg.
func NewFile(cfg FileConfig) (*File, error) {
	if cfg.Path == "" || cfg.Log == nil || cfg.Every < 0 {
		return nil, errors.New("policy file: path and log are required, and the interval is not negative")
	}
	if cfg.Every == 0 {
		cfg.Every = 250 * time.Millisecond
	}
	return &File{status: status{log: cfg.Log.With("file", cfg.Path)}, path: cfg.Path, every: cfg.Every}, nil
}

// Run delivers the file's set, and again after each change, until ctx ends; it
// then returns nil. A file that is absent or can't be used is no reason to end:
// State tells.
func (f *File) Run(ctx context.Context, sink Sink) error {
	ticker := time.NewTicker(f.every)
	defer ticker.Stop()
	for {
		if err := f.poll(sink); err != nil {
			f.fail("the policy file was not taken", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// poll applies the file if its content is new.
func (f *File) poll(sink Sink) error {
	info, err := os.Stat(f.path)
	if err != nil {
		f.info = nil
		return err
	}
	if f.unchanged(info) {
		return nil
	}
	raw, info, err := f.read()
	if err != nil {
		f.info = nil
		return err
	}
	sum := sha256.Sum256(raw)
	same := f.info != nil && sum == f.sum
	f.info, f.sum = info, sum
	if same {
		return nil
	}
	set, err := policy.ParseSet(raw)
	if err != nil {
		return err
	}
	return f.apply(sink, set, time.Now())
}

// unchanged reports whether the file is surely what was read. For a while after
// a write it is not sure, because a second write may leave the same time and
// size.
func (f *File) unchanged(info os.FileInfo) bool {
	const settled = 2 * time.Second
	return f.info != nil && os.SameFile(f.info, info) &&
		info.Size() == f.info.Size() && info.ModTime().Equal(f.info.ModTime()) &&
		time.Since(info.ModTime()) > settled
}

func (f *File) read() ([]byte, os.FileInfo, error) {
	file, err := os.Open(f.path)
	if err != nil {
		return nil, nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, nil, err
	}
	raw, err := io.ReadAll(io.LimitReader(file, maxSetBytes+1))
	if err == nil && len(raw) > maxSetBytes {
		err = fmt.Errorf("the file is over %d bytes", maxSetBytes)
	}
	return raw, info, err
}
