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
	"syscall"
)

// process is an observer as its harness sees it.
type process struct {
	*child
	stdin io.Closer
	noted chan error // gets one, when all that it said is noted
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

// startObserver runs program as the user of w and notes what it says.
func startObserver(program string, w watch, r *Recorder) (*process, error) {
	cmd := exec.Command(program, ObserverCommand)
	said, says := io.Pipe()
	cmd.Stdout, cmd.Stderr = says, os.Stderr
	if w.UID != os.Getuid() {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(w.UID), Gid: uint32(w.UID)}}
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	p := &process{stdin: stdin, noted: make(chan error, 1)}
	if p.child, err = launch("an observer", cmd); err != nil {
		return nil, err
	}
	go func() { p.noted <- noteAll(said, r) }()
	go func() {
		<-p.done
		says.Close() // everything has been copied by now
	}()
	if err := json.NewEncoder(stdin).Encode(w); err != nil {
		return nil, errors.Join(fmt.Errorf("tell an observer what to watch: %w", err), p.stop())
	}
	return p, nil
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
	err := <-p.noted
	<-p.done
	return errors.Join(err, p.err)
}
