// Package peer learns from the kernel which process is calling on the agent's
// socket, and whether it is still that process.
//
// The kernel's word (SO_PEERCRED and a pidfd) is taken when the connection is
// accepted. It is about the process that called connect: a process that passes
// the connected descriptor to another one lends it its identity, as it could by
// passing on the SVID itself, and only for as long as it lives unchanged.
package peer

import (
	"context"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
	grpcpeer "google.golang.org/grpc/peer"

	"github.com/authsec-ai/icp/identity"
)

// Caller is the process at the other end of a connection, as the kernel names
// it: nothing a client says about itself is in here. It lives as long as the
// connection.
type Caller struct {
	PID int32
	UID uint32 // effective, when it connected
	GID uint32 // effective, when it connected

	proc    string    // root of procfs
	born    birth     // what it keeps for life
	first   condition // what was seen when it connected
	unknown error     // why nothing was seen; every Same gives it

	mu     sync.Mutex
	pidfd  int // -1 when closed or absent
	folder int // its own in procfs; -1 when closed or absent
	conn   net.Conn
	linger *time.Timer // closes conn after a change; nil before
}

// linger is how long a connection stays open after its process was found
// changed: enough for the refusal to arrive. The client then has to connect
// again, and is looked at anew.
const linger = time.Second

// AuthType names the transport's authentication for gRPC.
func (c *Caller) AuthType() string { return "peer-credentials" }

// Same reports, by nil, that the caller still runs and is what it was when it
// connected: the same process, with the same executable, user, group and
// cgroup. Any other answer is an *identity.Error with code Denied, and final:
// the connection closes soon after.
//
// It costs some 10 µs, so that it can stand before every answer. Start time and
// pid namespace need no second look: pidfd and folder were shown to be of one
// process, neither can come to mean another, and no process changes the two.
func (c *Caller) Same() error {
	if c.unknown != nil {
		return c.unknown
	}
	err := c.compare()
	if err != nil {
		c.retire()
	}
	return err
}

// compare asks the pidfd last: what was read before a positive answer was read
// from a process that lived.
func (c *Caller) compare() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, err := readCondition(c.folder)
	if ended := pidfdAlive(c.pidfd); ended != nil {
		return denied(ended, "process %d has ended; connect again", c.PID)
	}
	if err != nil {
		return denied(err, "process %d can no longer be read; connect again", c.PID)
	}
	if what := c.first.differs(now); what != "" {
		return denied(nil, "process %d has changed its %s since it connected; connect again", c.PID, what)
	}
	return nil
}

func (c *Caller) retire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.linger == nil && c.conn != nil {
		conn := c.conn
		c.linger = time.AfterFunc(linger, func() { _ = conn.Close() }) // it may be closed already
	}
}

// release gives back what the kernel lent; the connection has ended.
func (c *Caller) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.linger != nil {
		c.linger.Stop()
	}
	c.conn = nil
	closeHandle(c.pidfd)
	closeHandle(c.folder)
	c.pidfd, c.folder = -1, -1
}

// Closed reports whether the connection has ended.
func (c *Caller) Closed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.conn == nil
}

// Proc gives the folder of the caller in procfs. What is read there is this
// process only if Same holds before and after.
func (c *Caller) Proc() string { return processDir(c.proc, c.PID) }

// Cgroup gives the lines of the caller's /proc/PID/cgroup.
func (c *Caller) Cgroup() string { return c.first.cgroup }

// Executable gives device and inode of the program it runs.
func (c *Caller) Executable() (dev, ino uint64) { return c.first.exeDev, c.first.exeIno }

// StartTime gives when the process started, in clock ticks since boot.
func (c *Caller) StartTime() uint64 { return c.born.start }

// PIDNamespace gives the inode of its pid namespace.
func (c *Caller) PIDNamespace() uint64 { return c.born.pidns }

func denied(cause error, format string, args ...any) error {
	e := identity.Errorf(identity.Denied, format, args...)
	e.Err = cause
	return e
}

// FromContext gives the caller of a gRPC request that came through the
// transport credentials of this package.
func FromContext(ctx context.Context) (*Caller, bool) {
	p, ok := grpcpeer.FromContext(ctx)
	if !ok {
		return nil, false
	}
	c, ok := p.AuthInfo.(*Caller)
	return c, ok
}

var _ credentials.AuthInfo = (*Caller)(nil)
