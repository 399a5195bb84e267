package chaos

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
)

// process is an observer as its harness sees it.
type process struct {
	stdin io.Closer
	done  chan error // gets one, when it has ended and all it said is noted
}

// installObserver puts this program where every user can run it.
func installObserver(dir string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	in, err := os.Open(self)
	if err != nil {
		return "", err
	}
	defer in.Close()
	path := filepath.Join(dir, "observer")
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err // one that still runs could not be written over
	}
	out, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(out, in)
	return path, errors.Join(err, out.Close())
}

// startObserver runs program as the user of w and notes what it says. The
// kernel kills it if this program dies.
func startObserver(program string, w watch, r *Recorder) (*process, error) {
	cmd := exec.Command(program, ObserverCommand)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if w.UID != os.Getuid() {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(w.UID), Gid: uint32(w.UID)}
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p := &process{stdin: stdin, done: make(chan error, 1)}
	started := make(chan error, 1)
	go p.run(cmd, stdout, r, started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start an observer: %w", err)
	}
	if err := json.NewEncoder(stdin).Encode(w); err != nil {
		return nil, errors.Join(fmt.Errorf("tell an observer what to watch: %w", err), p.stop())
	}
	return p, nil
}

// run keeps the thread that started the child: the parent-death signal is tied
// to it.
func (p *process) run(cmd *exec.Cmd, stdout io.Reader, r *Recorder, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		started <- err
		return
	}
	started <- nil
	err := noteAll(stdout, r)
	p.done <- errors.Join(err, cmd.Wait())
}

func noteAll(in io.Reader, r *Recorder) error {
	lines := json.NewDecoder(bufio.NewReader(in))
	for {
		var e Event
		switch err := lines.Decode(&e); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("read what an observer says: %w", err)
		}
		r.Note(e)
	}
}

// stop ends it and waits until all it said is noted.
func (p *process) stop() error {
	_ = p.stdin.Close() // it may have ended
	return <-p.done
}
