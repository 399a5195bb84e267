package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// patience is how long the demo waits for something that should happen at once.
const patience = 20 * time.Second

// running is a bot's process.
type running struct {
	cmd   *exec.Cmd
	lines chan seen
	done  chan struct{}
}

// startBot runs this program as a workload of another user. It inherits nothing
// but the socket's address.
func (s *story) startBot(ctx context.Context, uid int, mode, model string) (*running, error) {
	cmd := exec.CommandContext(ctx, s.binary, "bot", "-socket", s.dev.AgentSocket, "-url", s.dev.ProxyURL,
		"-proxy-id", s.dev.ProxyID(), "-mode", mode, "-model", model)
	cmd.Env = []string{}
	cmd.Dir = "/"
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a process of uid %d: %w", uid, err)
	}
	r := &running{cmd: cmd, lines: make(chan seen, 1024), done: make(chan struct{})}
	go r.read(out)
	return r, nil
}

// read passes lines on until the process ends.
func (r *running) read(out io.Reader) {
	defer close(r.done)
	defer close(r.lines)
	for dec := json.NewDecoder(out); ; {
		var line seen
		if dec.Decode(&line) != nil {
			return
		}
		r.lines <- line
	}
}

// next gives the first line from now on that want accepts.
func (r *running) next(ctx context.Context, want func(seen) bool) (seen, error) {
	limit := time.NewTimer(patience)
	defer limit.Stop()
	var last seen
	for {
		select {
		case line, open := <-r.lines:
			if !open {
				return seen{}, fmt.Errorf("the process ended; its last line was %+v", last)
			}
			if want(line) {
				return line, nil
			}
			last = line
		case <-limit.C:
			return seen{}, fmt.Errorf("nothing of the kind within %s; the last line was %+v", patience, last)
		case <-ctx.Done():
			return seen{}, ctx.Err()
		}
	}
}

// stop ends the process and waits for it.
func (r *running) stop() {
	_ = r.cmd.Process.Kill() // it may have ended
	for range r.lines {      // let read finish
	}
	<-r.done
	_ = r.cmd.Wait() // killed: its state says nothing
}

// once runs a bot for one request.
func (s *story) once(ctx context.Context, uid int, model string) (seen, error) {
	r, err := s.startBot(ctx, uid, "ask", model)
	if err != nil {
		return seen{}, err
	}
	defer r.stop()
	return r.next(ctx, func(seen) bool { return true })
}

// until asks again until the status is as wanted.
func (s *story) until(ctx context.Context, uid int, model string, status int) (seen, error) {
	for deadline := time.Now().Add(patience); ; {
		line, err := s.once(ctx, uid, model)
		if err != nil || line.Status == status {
			return line, err
		}
		if time.Now().After(deadline) {
			return line, fmt.Errorf("status %d never came; the last line was %+v", status, line)
		}
	}
}

// copyProgram puts the program where every user may run it.
func copyProgram(from, to string) (string, error) {
	in, err := os.Open(from)
	if err != nil {
		return "", err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(out, in)
	return to, errors.Join(err, out.Close())
}
