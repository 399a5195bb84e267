package unix

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/authsec-ai/icp/agent/peer"
)

// programPath gives where the caller's program is found, "" where that can't be
// vouched for. The kernel's text alone proves nothing: whoever may make a user
// namespace may mount any file over any path, and a deleted program keeps its
// old path. So the path counts only if the file found there, from the caller's
// own root, is the very program that runs, and if the caller lives in the
// agent's user namespace, where making that root takes privilege.
func programPath(caller *peer.Caller) (string, error) {
	same, err := sameUserNamespace(caller)
	if err != nil || !same {
		return "", err
	}
	path, err := os.Readlink(caller.Proc() + "/exe")
	if err != nil {
		return "", fmt.Errorf("read the program's path: %w", err)
	}
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return "", nil
	}
	found, err := leadsToProgram(caller, path)
	if err != nil || !found {
		return "", err
	}
	return path, nil
}

func sameUserNamespace(caller *peer.Caller) (bool, error) {
	theirs, err := os.Readlink(caller.Proc() + "/ns/user")
	if err != nil {
		return false, fmt.Errorf("read the caller's user namespace: %w", err)
	}
	ours, err := os.Readlink("/proc/self/ns/user")
	if err != nil {
		return false, fmt.Errorf("read the agent's user namespace: %w", err)
	}
	return theirs == ours, nil
}

// leadsToProgram reports whether path, from the caller's root, is the inode
// that the caller runs.
func leadsToProgram(caller *peer.Caller, path string) (bool, error) {
	root, err := unix.Open(caller.Proc()+"/root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, fmt.Errorf("open the caller's root: %w", err)
	}
	defer unix.Close(root)
	fd, err := unix.Openat2(root, path, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC | unix.O_NOFOLLOW,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS,
	})
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("find the program at its path: %w", err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, fmt.Errorf("look at the program at its path: %w", err)
	}
	dev, ino := caller.Executable()
	return st.Dev == dev && st.Ino == ino, nil
}

// inode names the content of a file: writing to it changes ctime, and a program
// that runs can't be written to.
type inode struct {
	dev, ino  uint64
	sec, nsec int64 // ctime
	size      int64
}

// digests remembers the SHA-256 of programs.
type digests struct {
	mu    sync.Mutex
	known map[inode]string
}

// maxDigests bounds what is remembered; it is forgotten whole, which only costs
// time.
const maxDigests = 4096

// of gives the digest of the program that the caller runs: of that inode, also
// when another file has taken its place.
func (d *digests) of(ctx context.Context, caller *peer.Caller) (string, error) {
	f, err := os.Open(caller.Proc() + "/exe")
	if err != nil {
		return "", fmt.Errorf("open the program: %w", err)
	}
	defer f.Close()
	key, err := inodeOf(f)
	if err != nil {
		return "", err
	}
	if dev, ino := caller.Executable(); key.dev != dev || key.ino != ino {
		return "", errors.New("the program changed while it was looked at")
	}
	if sum, ok := d.get(key); ok {
		return sum, nil
	}
	h := sha256.New()
	if _, err := io.Copy(h, reader{ctx, f}); err != nil {
		return "", fmt.Errorf("hash the program: %w", err)
	}
	if after, err := inodeOf(f); err != nil || after != key {
		return "", errors.Join(err, errors.New("the program changed while it was hashed"))
	}
	sum := hex.EncodeToString(h.Sum(nil))
	d.put(key, sum)
	return sum, nil
}

func inodeOf(f *os.File) (inode, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return inode{}, fmt.Errorf("look at the program: %w", err)
	}
	return inode{dev: st.Dev, ino: st.Ino, sec: st.Ctim.Sec, nsec: st.Ctim.Nsec, size: st.Size}, nil
}

func (d *digests) get(key inode) (string, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	sum, ok := d.known[key]
	return sum, ok
}

func (d *digests) put(key inode, sum string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.known) >= maxDigests {
		clear(d.known)
	}
	d.known[key] = sum
}

// reader stops when ctx does.
type reader struct {
	ctx context.Context
	f   *os.File
}

func (r reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.f.Read(p)
}
