// Package peer says what the kernel says of the process at the other end of a
// unix socket: who it is, and in which control groups and namespaces.
package peer

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Peer is a process that has connected, as the process that accepted sees it.
type Peer struct {
	PID        int               `json:"pid"` // 0: of a process id namespace that can't be seen from here
	UID        int               `json:"uid"`
	GID        int               `json:"gid"`
	Cgroups    string            `json:"cgroups"`    // /proc/PID/cgroup
	Namespaces map[string]string `json:"namespaces"` // by kind: "pid": "pid:[4026531836]"; those that may be seen from here
	Said       string            `json:"said"`       // by the process, of itself; proves nothing
}

// Cgroup gives the path in version 2's hierarchy, which on hybrid hosts equals
// that of the others; empty if there is none.
func (p Peer) Cgroup() string {
	for line := range strings.Lines(p.Cgroups) {
		if path, ok := strings.CutPrefix(line, "0::"); ok {
			return strings.TrimSuffix(path, "\n")
		}
	}
	return ""
}

// Of asks the kernel who is at the other end; that process must still be there.
func Of(conn *net.UnixConn) (Peer, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return Peer{}, fmt.Errorf("ask for the peer: %w", err)
	}
	var cred *unix.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) {
		cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, failed); err != nil {
		return Peer{}, fmt.Errorf("ask for the peer: %w", err)
	}
	p := Peer{PID: int(cred.Pid), UID: int(cred.Uid), GID: int(cred.Gid), Namespaces: map[string]string{}}
	if p.PID == 0 {
		return p, nil
	}
	return p, p.look()
}

// look reads what /proc says of the process.
func (p *Peer) look() error {
	dir := fmt.Sprintf("/proc/%d", p.PID)
	groups, err := os.ReadFile(filepath.Join(dir, "cgroup"))
	if err != nil {
		return fmt.Errorf("look at the peer: %w", err)
	}
	p.Cgroups = string(groups)
	for _, kind := range []string{"cgroup", "ipc", "mnt", "net", "pid", "user", "uts"} {
		namespace, err := os.Readlink(filepath.Join(dir, "ns", kind))
		if errors.Is(err, fs.ErrPermission) {
			continue // another user's process, and no CAP_SYS_PTRACE
		}
		if err != nil {
			return fmt.Errorf("look at the peer: %w", err)
		}
		p.Namespaces[kind] = namespace
	}
	return nil
}

// Answer reads the line that the peer says, gives it what the kernel says of it
// as a line of JSON, and closes the connection.
func Answer(conn *net.UnixConn) (Peer, error) {
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return Peer{}, err
	}
	said, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return Peer{}, fmt.Errorf("listen to the peer: %w", err)
	}
	p, err := Of(conn)
	if err != nil {
		return p, err
	}
	p.Said = strings.TrimSuffix(said, "\n")
	return p, json.NewEncoder(conn).Encode(p)
}

// Listen opens a socket that every user may connect to.
func Listen(path string) (*net.UnixListener, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o777); err != nil {
		_ = l.Close()
		return nil, err
	}
	return l, nil
}
