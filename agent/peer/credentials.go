package peer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/credentials"

	"github.com/authsec-ai/icp/identity"
)

// MaxConnsPerUser bounds the open connections of one user id, so that one
// workload can't use up the agent's descriptors.
const MaxConnsPerUser = 1024

// Credentials gives the transport credentials of a gRPC server on a unix
// socket: no TLS; the kernel says who the peer is. A peer that can't be known
// is let through to the service, which is told so by Caller.Same and can say
// why; only a peer over MaxConnsPerUser is turned away here.
func Credentials(log *slog.Logger) credentials.TransportCredentials {
	return &transport{log: log, proc: "/proc", open: map[uint32]int{}}
}

type transport struct {
	log  *slog.Logger
	proc string // root of procfs

	mu   sync.Mutex
	open map[uint32]int // connections by user id
}

// ServerHandshake asks the kernel about the peer.
func (t *transport) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	sock, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, nil, fmt.Errorf("a peer is known on a unix socket only, not on %T", conn)
	}
	caller, err := t.admit(sock)
	if err != nil {
		t.log.Warn("peer refused", "error", err)
		return nil, nil, err
	}
	if caller.unknown != nil {
		t.log.Warn("peer can't be attested", "pid", caller.PID, "uid", caller.UID, "error", caller.unknown)
	}
	return &tracked{Conn: conn, end: func() { t.release(caller) }}, caller, nil
}

func (t *transport) admit(sock *net.UnixConn) (*Caller, error) {
	raw, err := sock.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("reach the peer's socket: %w", err)
	}
	var caller *Caller
	if ctl := raw.Control(func(fd uintptr) { caller, err = t.look(int(fd)) }); ctl != nil {
		return nil, fmt.Errorf("reach the peer's socket: %w", ctl)
	}
	if err != nil {
		return nil, err
	}
	if !t.count(caller.UID) {
		caller.release()
		return nil, fmt.Errorf("user %d has %d connections open, the most that are allowed", caller.UID, MaxConnsPerUser)
	}
	caller.conn = sock
	return caller, nil
}

// look reads the kernel's word on the peer. Only a socket that can't be asked
// at all is an error; a process that can't be seen is a Caller that no Same
// accepts.
func (t *transport) look(sock int) (*Caller, error) {
	cred, err := unix.GetsockoptUcred(sock, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return nil, fmt.Errorf("get the peer's credentials: %w", err)
	}
	c := &Caller{PID: cred.Pid, UID: cred.Uid, GID: cred.Gid, proc: t.proc, pidfd: -1, folder: -1}
	c.unknown = c.identify(sock)
	return c, nil
}

// identify fills in what tells the process from others. The order matters: the
// two handles first, then what is read through the second, then the proof that
// the first one's process was alive all the while, so that its pid can't have
// been another's.
func (c *Caller) identify(sock int) error {
	if c.PID <= 0 {
		return denied(nil, "%s", unseen)
	}
	var err error
	if c.pidfd, err = openPidfd(sock, c.PID); err != nil {
		return denied(err, "process %d ended before it could be attested; connect again", c.PID)
	}
	err = c.read()
	if errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EPERM) {
		return denied(err, "the agent may not look at process %d of user %d; run the agent as root", c.PID, c.UID)
	}
	if ended := pidfdAlive(c.pidfd); ended != nil {
		return denied(ended, "process %d ended before it could be attested; connect again", c.PID)
	}
	if err != nil {
		return denied(err, "%s", unseen)
	}
	if c.first.uid != c.UID || c.first.gid != c.GID {
		return denied(nil, "process %d changed its user or group after it connected; connect again", c.PID)
	}
	return nil
}

// read opens the process's folder and reads it for the first time.
func (c *Caller) read() error {
	var err error
	if c.folder, err = openFolder(c.proc, c.PID); err != nil {
		return err
	}
	if c.born, err = readBirth(c.folder); err != nil {
		return err
	}
	c.first, err = readCondition(c.folder)
	return err
}

const unseen = "the agent can't see the calling process: it runs in a pid namespace that the agent has no view of; " +
	"run the agent in the host's pid namespace (hostPID: true, docker run --pid=host)"

func (t *transport) count(uid uint32) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open[uid] >= MaxConnsPerUser {
		return false
	}
	t.open[uid]++
	return true
}

func (t *transport) release(c *Caller) {
	c.release()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open[c.UID]--; t.open[c.UID] <= 0 {
		delete(t.open, c.UID)
	}
}

// tracked runs end once, when the connection closes.
type tracked struct {
	net.Conn
	once sync.Once
	end  func()
}

// Close closes the connection and forgets its caller.
func (t *tracked) Close() error {
	err := t.Conn.Close()
	t.once.Do(t.end)
	return err
}

// ClientHandshake is refused: these credentials are a server's.
func (t *transport) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, identity.Errorf(identity.Internal, "peer credentials are for servers")
}

// Info describes the transport to gRPC.
func (t *transport) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "peer-credentials"}
}

// Clone gives the same credentials: they count connections of one server.
func (t *transport) Clone() credentials.TransportCredentials { return t }

// OverrideServerName does nothing; there are no server names.
func (t *transport) OverrideServerName(string) error { return nil }
