// Package door gives tests a unix socket that shows who knocks, as the kernel
// has it: what an agent would be told of its callers.
package door

import (
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"time"

	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/e2e/stage/peer"
)

// Door is a socket of the test's own. "probe connect SOCK WORD" knocks.
type Door struct {
	Dir  string // to be mounted where the callers are
	Name string // of the socket in Dir

	mu   sync.Mutex
	came []peer.Peer
}

// Open listens until the test ends.
func Open(t stage.T) *Door {
	t.Helper()
	d := &Door{Dir: stage.Folder(t), Name: "door.sock"}
	l, err := peer.Listen(filepath.Join(d.Dir, d.Name))
	if err != nil {
		t.Fatalf("open a door: %v", err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.answer(l)
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return d
}

func (d *Door) answer(l *net.UnixListener) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return // closed
		}
		who, err := peer.Answer(conn)
		if err != nil {
			continue // one that has ended meanwhile; others come again
		}
		d.mu.Lock()
		d.came = append(d.came, who)
		d.mu.Unlock()
	}
}

// Hear waits for somebody who knocks from now on and says word.
func (d *Door) Hear(t stage.T, word string) peer.Peer {
	t.Helper()
	var who peer.Peer
	seen := len(d.all())
	stage.Eventually(t, time.Minute, func() error {
		came := d.all()
		for ; seen < len(came); seen++ {
			if came[seen].Said == word {
				who = came[seen]
				return nil
			}
		}
		return fmt.Errorf("nobody came to the door saying %q; in all came %d", word, len(came))
	})
	return who
}

func (d *Door) all() []peer.Peer {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.came
}
