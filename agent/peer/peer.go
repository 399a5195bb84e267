// Package peer learns from the kernel which process is calling on the agent's
// socket, and whether it is still that process.
package peer

import (
	"context"

	"google.golang.org/grpc/credentials"
	grpcpeer "google.golang.org/grpc/peer"
)

// Caller is the process at the other end of a connection, as the kernel names
// it: nothing a client says about itself is in here.
type Caller struct {
	PID int32
	UID uint32
	GID uint32
	// unexported: pidfd, start time, pid namespace, executable device and inode, cgroup
}

// AuthType names the transport's authentication for gRPC.
func (c *Caller) AuthType() string { return "peer-credentials" }

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
