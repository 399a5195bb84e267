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
	unix.Umask(0o022) // whatever the test's: all users see what is made below
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

// quiet are the flags of mounts that nothing is run from.
const quiet = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// mountAll gives the machine its own view of the files.
func mountAll(groups []cgroup, show Cgroups) error {
	// First cut off from the host, then shared among the machine's own namespaces.
	err := mountUnless(nil, "none", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	err = mountUnless(err, "none", "/", "", unix.MS_REC|unix.MS_SHARED, "")
	err = mountUnless(err, "proc", "/proc", "proc", quiet, "")
	err = mountUnless(err, "shm", "/dev/shm", "tmpfs", quiet, "mode=1777")
	err = mountUnless(err, "run", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755")
	if err == nil {
		err = divert("/etc", "/opt", "/var")
	}
	if err != nil {
		return err
	}
	return mountCgroups(groups, show)
}

// mountUnless mounts unless something has failed before.
func mountUnless(err error, source, target, kind string, flags uintptr, data string) error {
	if err != nil {
		return err
	}
	if err := unix.Mount(source, target, kind, flags, data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", source, target, err)
	}
	return nil
}

// divert has what is written in these folders go to memory.
func divert(folders ...string) error {
	const memory = "/run" // as good as any: what is mounted there is taken away again
	if err := mountUnless(nil, "diverted", memory, "tmpfs", 0, ""); err != nil {
		return err
	}
	for _, folder := range folders {
		upper, work := filepath.Join(memory, folder, "upper"), filepath.Join(memory, folder, "work")
		for _, dir := range []string{upper, work} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return fmt.Errorf("divert what is written in %s: %w", folder, err)
			}
		}
		layers := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", folder, upper, work)
		if err := mountUnless(nil, "overlay", folder, "overlay", 0, layers); err != nil {
			return err
		}
	}
	return unmount(memory)
}

// mountCgroups shows the machine's control groups as if they were all.
func mountCgroups(groups []cgroup, show Cgroups) error {
	const all = "/sys/fs/cgroup"
	if show == CgroupsV2 {
		return mountUnless(unmount(all), "cgroup2", all, "cgroup2", quiet, "")
	}
	var err error
	for _, group := range groups {
		target := filepath.Dir(group.path)
		// In the host's place: a mount made here has the machine's group as its root.
		if err == nil {
			err = unmount(target)
		}
		if group.controller == "" {
			err = mountUnless(err, "cgroup2", target, "cgroup2", quiet, "")
		} else {
			err = mountUnless(err, "cgroup", target, "cgroup", quiet, group.controller)
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
