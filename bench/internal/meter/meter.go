// Package meter reads what processes cost: CPU time and resident memory, as the
// kernel counts them.
package meter

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// tick is the unit of times in /proc/PID/stat: USER_HZ, 100 on every Linux
// that Go runs on.
const tick = 10 * time.Millisecond

// CPU gives the CPU time, user and system, that the process and its
// descendants have used. Those that have ended and were waited for are
// included, to 10 ms.
func CPU(pid int) (time.Duration, error) {
	var total time.Duration
	for _, member := range family(pid) {
		cost, err := used(member)
		if member != pid && err != nil {
			continue // ended since; its parent has its time
		}
		if err != nil {
			return 0, err
		}
		total += cost
	}
	return total, nil
}

// used gives what a process has used, and its children for which it has waited.
func used(pid int) (time.Duration, error) {
	stat, err := readStat(pid)
	if err != nil {
		return 0, err
	}
	own, err := processTime(pid)
	return own + stat.waitedFor, err
}

// processTime reads the CPU clock of a process, of which /proc/PID/stat shows
// whole ticks (clock_getcpuclockid(3)).
func processTime(pid int) (time.Duration, error) {
	const scheduled = 2 // user and system
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|scheduled), &t); err != nil {
		return 0, fmt.Errorf("read the CPU clock of process %d: %w", pid, err)
	}
	return time.Duration(t.Nano()), nil
}

// Memory is what a process and its descendants hold in RAM, in MiB.
type Memory struct {
	RSS  float64 // now
	Peak float64 // the sum of each one's most
}

// Resident reads Memory from /proc/PID/status.
func Resident(pid int) (Memory, error) {
	var m Memory
	for _, member := range family(pid) {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", member))
		if err != nil {
			return Memory{}, fmt.Errorf("read memory of process %d: %w", member, err)
		}
		m.RSS += mebibytes(raw, "VmRSS:")
		m.Peak += mebibytes(raw, "VmHWM:")
	}
	return m, nil
}

func mebibytes(status []byte, field string) float64 {
	for line := range strings.Lines(string(status)) {
		if words := strings.Fields(line); len(words) == 3 && words[0] == field {
			kibibytes, _ := strconv.ParseFloat(words[1], 64) // the kernel writes a number
			return kibibytes / 1024
		}
	}
	return 0
}

// ThreadCPU gives the CPU time that f costs on the thread that runs it.
func ThreadCPU(f func()) time.Duration {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before := threadTime()
	f()
	return threadTime() - before
}

func threadTime() time.Duration {
	var usage unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_THREAD, &usage) // fails only for arguments that do not exist
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// family lists a process and its living descendants.
func family(pid int) []int {
	children := map[int][]int{}
	entries, _ := filepath.Glob("/proc/[0-9]*") // fails only for a bad pattern
	for _, entry := range entries {
		child, _ := strconv.Atoi(filepath.Base(entry))
		if stat, err := readStat(child); err == nil {
			children[stat.parent] = append(children[stat.parent], child)
		}
	}
	members := []int{pid}
	for i := 0; i < len(members); i++ {
		members = append(members, children[members[i]]...)
	}
	slices.Sort(members[1:])
	return members
}

// stat is what counts of /proc/PID/stat (proc(5)).
type stat struct {
	parent    int
	waitedFor time.Duration // cutime and cstime
}

func readStat(pid int) (stat, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, fmt.Errorf("read times of process %d: %w", pid, err)
	}
	fields := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:])) // from field 3 on
	if len(fields) < 15 {
		return stat{}, fmt.Errorf("read times of process %d: unknown format", pid)
	}
	var s stat
	s.parent, err = strconv.Atoi(fields[1])
	for _, field := range fields[13:15] {
		ticks, fault := strconv.ParseInt(field, 10, 64)
		if err == nil {
			err = fault
		}
		s.waitedFor += time.Duration(ticks) * tick
	}
	return s, err
}
