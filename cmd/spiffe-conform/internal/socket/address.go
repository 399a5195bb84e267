// Package socket talks to a Workload API endpoint as a client may, and as no
// client should: with a wrong header, to unknown methods, in bare frames.
package socket

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// Address is where an endpoint serves (SPIFFE Workload Endpoint section 4).
type Address struct {
	network, path string
}

// ParseAddress reads unix:///path, unix:/path or tcp://IP:port.
func ParseAddress(text string) (Address, error) {
	if rest, ok := strings.CutPrefix(text, "tcp://"); ok {
		if _, err := netip.ParseAddrPort(rest); err != nil {
			return Address{}, fmt.Errorf("%q: after tcp:// comes an IP address with a port", text)
		}
		return Address{network: "tcp", path: rest}, nil
	}
	path, ok := strings.CutPrefix(text, "unix:")
	if after, authority := strings.CutPrefix(path, "//"); authority {
		path = after
	}
	if !ok || !strings.HasPrefix(path, "/") || strings.HasPrefix(path, "//") || strings.ContainsAny(path, "?#") {
		return Address{}, fmt.Errorf("%q is no address of a socket: write unix:///path or tcp://IP:port", text)
	}
	return Address{network: "unix", path: path}, nil
}

// String gives the address as ParseAddress reads it.
func (a Address) String() string { return a.network + "://" + a.path }

// Dial opens a connection. A failure means that nobody serves there.
func (a Address) Dial(ctx context.Context) (net.Conn, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, a.network, a.path)
	if err != nil {
		return nil, fmt.Errorf("reach %s: %w", a, err)
	}
	return conn, nil
}
