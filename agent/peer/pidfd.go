package peer

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// openPidfd gets a handle on the process that connected. The kernel gives the
// right one since Linux 6.5; before, the pid is opened, and the caller's checks
// (same user and group, see admit) narrow what a recycled pid could be.
func openPidfd(sock int, pid int32) (int, error) {
	fd, err := unix.GetsockoptInt(sock, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	if err == nil {
		return fd, nil
	}
	if !errors.Is(err, unix.ENOPROTOOPT) {
		return -1, fmt.Errorf("get the peer's pidfd: %w", err)
	}
	fd, err = unix.PidfdOpen(int(pid), 0)
	if err != nil {
		return -1, fmt.Errorf("open a pidfd of process %d: %w", pid, err)
	}
	return fd, nil
}

// pidfdAlive reports, by nil, that the process has not ended. A pidfd turns
// readable when it does, also while the dead process still waits for its parent.
func pidfdAlive(fd int) error {
	if fd < 0 {
		return errors.New("the connection has ended")
	}
	set := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(set, 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("poll the pidfd: %w", err)
		case n != 0:
			return errors.New("the process has ended")
		}
		return nil
	}
}

func closeHandle(fd int) {
	if fd >= 0 {
		_ = unix.Close(fd) // nothing can be done about it
	}
}
