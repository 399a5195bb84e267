package stage

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// mount is a line of /proc/PID/mountinfo.
type mount struct{ root, path, kind, options string }

func readMounts(file string) ([]mount, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var mounts []mount
	for line := range strings.Lines(string(raw)) {
		// id parent device root path options optional… - kind source super-options
		before, after, ok := strings.Cut(line, " - ")
		first, last := strings.Fields(before), strings.Fields(after)
		if !ok || len(first) < 6 || len(last) < 3 {
			return nil, fmt.Errorf("%s: can't read %q", file, line)
		}
		mounts = append(mounts, mount{root: unescape(first[3]), path: unescape(first[4]), kind: last[0], options: last[2]})
	}
	return mounts, nil
}

// unescape gives a path as it is: where it has a space, a line of mountinfo has
// the octal of that.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace

// Left gives what a run has left behind on this host: processes, folders, control
// groups, mounts and named network namespaces, a line each. This process, its
// keeper and the processes above it do not count.
func Left(run string) ([]string, error) {
	var left []string
	var errs []error
	for _, look := range []func(string) ([]string, error){leftProcesses, leftFiles, leftMounts} {
		found, err := look(run)
		left, errs = append(left, found...), append(errs, err)
	}
	return left, errors.Join(errs...)
}

// leftProcesses finds processes by the mark in their environment, and by their
// folder and control group where a program has overwritten its environment.
func leftProcesses(run string) ([]string, error) {
	own, err := ancestors()
	if err != nil {
		return nil, err
	}
	own[fmt.Sprint(keeper.pid.Load())] = true
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var left []string
	for _, dir := range all {
		if own[filepath.Base(dir)] || !marked(dir, run) || ended(dir) {
			continue
		}
		name, _ := os.ReadFile(filepath.Join(dir, "cmdline")) // it may end meanwhile
		left = append(left, fmt.Sprintf("process %s: %s", filepath.Base(dir), bytes.ReplaceAll(name, []byte{0}, []byte{' '})))
	}
	return left, nil
}

func marked(dir, run string) bool {
	environ, _ := os.ReadFile(filepath.Join(dir, "environ")) // one that has ended is not left
	if bytes.Contains(append([]byte{0}, environ...), []byte("\x00"+runVariable+"="+run+"\x00")) {
		return true
	}
	groups, _ := os.ReadFile(filepath.Join(dir, "cgroup"))
	cwd, _ := os.Readlink(filepath.Join(dir, "cwd"))
	return bytes.Contains(groups, []byte("/"+prefix(run))) || strings.HasPrefix(cwd, "/tmp/"+prefix(run))
}

// ancestors gives the ids of this process and those above it.
func ancestors() (map[string]bool, error) {
	ids := map[string]bool{}
	for pid := os.Getpid(); pid > 0; {
		ids[strconv.Itoa(pid)] = true
		fields, err := stat(fmt.Sprintf("/proc/%d", pid))
		if err != nil {
			return nil, err
		}
		if pid, err = strconv.Atoi(fields[1]); err != nil {
			return nil, err
		}
	}
	return ids, nil
}

// ended says whether all threads of a process have ended: then it has nothing but
// its id, until its parent asks for it, and not every first process does.
func ended(dir string) bool {
	fields, err := stat(dir)
	return err != nil || fields[0] == "Z" && fields[17] == "1"
}

// stat gives what /proc/PID/stat has after the name: state, parent and, as the
// 18th, the number of threads.
func stat(dir string) ([]string, error) {
	raw, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return nil, err
	}
	fields := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:])) // the name is in parentheses, and may have some
	if len(fields) < 18 {
		return nil, fmt.Errorf("%s/stat: can't read %q", dir, raw)
	}
	return fields, nil
}

func leftFiles(run string) ([]string, error) {
	var left []string
	for kind, pattern := range map[string]string{
		"folder": "/tmp/" + prefix(run) + "*", "network namespace": "/run/netns/" + prefix(run) + "*",
	} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			return nil, err
		}
		for _, path := range paths {
			left = append(left, kind+" "+path)
		}
	}
	err := filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), prefix(run)) {
			left = append(left, "control group "+path)
			return fs.SkipDir
		}
		if errors.Is(err, fs.ErrNotExist) { // removed meanwhile
			return nil
		}
		return err
	})
	return left, err
}

func leftMounts(run string) ([]string, error) {
	mounts, err := readMounts("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var left []string
	for _, mount := range mounts {
		if strings.Contains(mount.path, "/"+prefix(run)) || strings.Contains(mount.root, "/"+prefix(run)) {
			left = append(left, fmt.Sprintf("mount %s of %s", mount.path, mount.root))
		}
	}
	return left, nil
}
