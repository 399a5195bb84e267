package stage

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// runMachine is the first process of a Machine. It sets the machine up, says so,
// and buries the dead until its standard input ends; with it all others end.
func runMachine() {
	answer := os.NewFile(3, "ready")
	if err := setUpMachine(); err != nil {
		fmt.Fprint(answer, err)
		os.Exit(1)
	}
	fmt.Fprint(answer, "ready")
	_ = answer.Close()
	go bury()
	_, _ = io.Copy(io.Discard, os.Stdin) // until the test is gone
}

// bury takes away the processes that have ended after their parents did.
func bury() {
	ended := make(chan os.Signal, 1) // one that waits stands for all
	signal.Notify(ended, unix.SIGCHLD)
	for range ended {
		for {
			if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); err != nil || pid == 0 {
				break
			}
		}
	}
}

func setUpMachine() error {
	var groups []cgroup
	for group := range strings.SplitSeq(os.Getenv(cgroupsVariable), ":") {
		path, controller, _ := strings.Cut(group, "=")
		groups = append(groups, cgroup{path, controller})
		if err := os.WriteFile(filepath.Join(path, "cgroup.procs"), []byte("0"), 0o644); err != nil {
			return fmt.Errorf("enter the control group: %w", err)
		}
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil { // of this thread, which is the process's first
		return fmt.Errorf("control groups of its own: %w", err)
	}
	if err := unix.Sethostname([]byte(os.Getenv(nameVariable))); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	if err := mountAll(groups, Cgroups(os.Getenv(showVariable))); err != nil {
		return err
	}
	return loopbackUp()
}

// mountAll gives the machine its own view of /proc, /run and the control groups.
func mountAll(groups []cgroup, show Cgroups) error {
	const quiet = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	const all = "/sys/fs/cgroup"
	mount := func(err error, source, target, kind string, flags uintptr, data string) error {
		if err != nil {
			return err
		}
		if err := unix.Mount(source, target, kind, flags, data); err != nil {
			return fmt.Errorf("mount %s on %s: %w", source, target, err)
		}
		return nil
	}
	// First cut off from the host, then shared among the machine's own namespaces.
	err := mount(nil, "none", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	err = mount(err, "none", "/", "", unix.MS_REC|unix.MS_SHARED, "")
	err = mount(err, "proc", "/proc", "proc", quiet, "")
	err = mount(err, "run", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755")
	if err != nil {
		return err
	}
	if show == CgroupsV2 {
		return mount(unmount(all), "cgroup2", all, "cgroup2", quiet, "")
	}
	for _, group := range groups {
		target := filepath.Dir(group.path)
		// In the host's place: a mount made here has the machine's group as its root.
		if err == nil {
			err = unmount(target)
		}
		if group.controller == "" {
			err = mount(err, "cgroup2", target, "cgroup2", quiet, "")
		} else {
			err = mount(err, "cgroup", target, "cgroup", quiet, group.controller)
		}
	}
	return err
}

// unmount takes away what is mounted at and below a path.
func unmount(path string) error {
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	return nil
}

// loopbackUp switches the loopback interface on.
func loopbackUp() error {
	if _, err := net.InterfaceByName("lo"); err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("switch the loopback interface on: %w", err)
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request); err != nil {
		return fmt.Errorf("switch the loopback interface on: %w", err)
	}
	return nil
}
