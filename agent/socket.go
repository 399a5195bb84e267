package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxSocketPath is the longest path that fits into a socket address (unix(7)).
const maxSocketPath = 107

func checkSocketPath(path string) error {
	switch {
	case !filepath.IsAbs(path):
		return fmt.Errorf("agent: socket path %q is not absolute", path)
	case len(path) > maxSocketPath:
		return fmt.Errorf("agent: socket path %q is %d bytes long; the limit is %d", path, len(path), maxSocketPath)
	}
	return nil
}

// listenSocket opens the agent's socket, to which every process may connect:
// who it is decides what it gets.
func listenSocket(path string) (net.Listener, error) {
	if err := prepareFolder(filepath.Dir(path)); err != nil {
		return nil, err
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("agent: open the socket: %w", err)
	}
	if err := os.Chmod(path, 0o777); err != nil {
		_ = l.Close() // the error that counts is the other one
		return nil, fmt.Errorf("agent: open the socket to all processes: %w", err)
	}
	return l, nil
}

// prepareFolder makes the socket's folder, or refuses one in which somebody else
// could put another socket in the place of ours.
func prepareFolder(dir string) error {
	info, err := os.Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return makeFolder(dir)
	}
	if err != nil {
		return fmt.Errorf("agent: look at the socket's folder: %w", err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		return fmt.Errorf("agent: the socket's folder %s is a symbolic link; name the folder itself", dir)
	case !info.IsDir():
		return fmt.Errorf("agent: %s, where the socket is to be, is not a folder", dir)
	case !ok || (stat.Uid != 0 && int(stat.Uid) != os.Geteuid()):
		return fmt.Errorf("agent: the socket's folder %s belongs to another user; it must be root's or the agent's own", dir)
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("agent: the socket's folder %s can be written by others (mode %04o): chmod 755 it", dir, info.Mode().Perm())
	}
	return nil
}

// makeFolder makes a folder that others can pass, whatever the umask.
func makeFolder(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("agent: make the socket's folder: %w", err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return fmt.Errorf("agent: open the socket's folder: %w", err)
	}
	return nil
}

// removeStale removes a socket on which nobody listens any more.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("agent: look at the socket's place: %w", err)
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("agent: %s exists and is not a socket; remove it or choose another path", path)
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	switch {
	case err == nil:
		_ = conn.Close() // it was only to see whether somebody answers
		return fmt.Errorf("agent: another agent serves %s; stop it or choose another path", path)
	case !errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("agent: find out whether another agent serves %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("agent: remove a socket that was left behind: %w", err)
	}
	return nil
}

// lockFolder makes the data folder and takes it for this process: two agents
// with one identity would pass for a stolen key. The kernel gives the lock back
// however the process ends.
func lockFolder(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("agent: make the data folder: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("agent: look at the data folder: %w", err)
	}
	if info.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("agent: the data folder %s can be written by others (mode %04o): chmod 700 it", dir, info.Mode().Perm())
	}
	f, err := os.OpenFile(filepath.Join(dir, "agent.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("agent: lock the data folder: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close() // nothing was written
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("agent: another agent uses the data folder %s; stop it or choose another folder", dir)
		}
		return nil, fmt.Errorf("agent: lock the data folder: %w", err)
	}
	return f, nil
}

// listenLoopback opens an address that only this machine reaches.
func listenLoopback(address string) (net.Listener, error) {
	addr, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("agent: admin address: %w", err)
	}
	if !addr.IP.IsLoopback() {
		return nil, fmt.Errorf("agent: admin address %s is not on loopback; health and metrics have no authentication", address)
	}
	l, err := net.ListenTCP("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("agent: open the admin address: %w", err)
	}
	return l, nil
}
