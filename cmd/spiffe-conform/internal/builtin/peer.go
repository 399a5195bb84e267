package builtin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"

	"google.golang.org/grpc/credentials"
)

// kernel are transport credentials without TLS: the kernel names the caller.
type kernel struct{}

// process is a caller.
type process struct {
	credentials.CommonAuthInfo
	pid int32
}

// AuthType names the way the caller was known.
func (process) AuthType() string { return "kernel" }

// ServerHandshake asks the kernel for the caller's process.
func (kernel) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	unix, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, nil, fmt.Errorf("a %T has no known caller", conn)
	}
	raw, err := unix.SyscallConn()
	if err != nil {
		return nil, nil, fmt.Errorf("reach the socket: %w", err)
	}
	var caller *syscall.Ucred
	var askErr error
	err = raw.Control(func(fd uintptr) {
		caller, askErr = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if err = errors.Join(err, askErr); err != nil {
		return nil, nil, fmt.Errorf("ask for the caller: %w", err)
	}
	info := process{pid: caller.Pid}
	info.SecurityLevel = credentials.NoSecurity
	return conn, info, nil
}

// ClientHandshake is not for this side.
func (kernel) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("these credentials are a server's")
}

// Info describes the protocol.
func (kernel) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "kernel"}
}

// Clone gives the same.
func (kernel) Clone() credentials.TransportCredentials { return kernel{} }

// OverrideServerName has no meaning here.
func (kernel) OverrideServerName(string) error { return nil }
