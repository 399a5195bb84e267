package pg

import (
	"errors"
	"fmt"
	"os/exec"

	"github.com/authsec-ai/icp/e2e/stage"
)

// Pair is a primary and a standby that streams from it and answers reads.
type Pair struct {
	// Primary is the one that began as such, and Standby the other, also after
	// Fail.
	Primary, Standby *Server
}

// PairOptions say what pair to start. Both servers get the Options.
type PairOptions struct {
	Options
	Synchronous bool // a commit is answered when the standby has written it, too
}

// StartPair makes an empty primary and its standby and starts both. They end
// when the test does.
func StartPair(t stage.T, o PairOptions) *Pair {
	t.Helper()
	p := &Pair{Primary: newServer(t, o.Options), Standby: newServer(t, o.Options)}
	p.Primary.makeData(t)
	// Nobody has written yet: the folder of a server that is down is a base backup.
	stage.Output(t, exec.Command("cp", "-a", p.Primary.data(), p.Standby.data()))
	p.Primary.configure(t, o.Options)
	p.Standby.configure(t, o.Options)
	p.configure(t, o.Synchronous)
	p.Primary.Start(t)
	p.Standby.Start(t)
	p.Standby.process.WaitReady(t, patience, func() error { return p.attached(t, o.Synchronous) })
	p.hosts().makeRoles(t)
	return p
}

func (p *Pair) configure(t stage.T, synchronous bool) {
	t.Helper()
	const name = "standby"
	p.Primary.set("wal_keep_size", "256MB") // a standby that was away finds what it has missed
	if synchronous {
		p.Primary.set("synchronous_standby_names", name)
		p.Primary.set("synchronous_commit", "on")
	}
	p.Standby.set("primary_conninfo", fmt.Sprintf("host=%s port=%s user=%s application_name=%s",
		p.Primary.dir, p.Primary.port, superuser, name))
	p.Standby.write(t, "data/standby.signal", nil)
}

// attached says whether the standby streams.
func (p *Pair) attached(t stage.T, synchronous bool) error {
	query := "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
	if synchronous {
		query += " AND sync_state = 'sync'"
	}
	var n int
	if err := (hosts{p.Primary}).ask(t.Context(), query, &n); err != nil {
		return err
	}
	if n == 0 {
		return errors.New("the standby does not stream from the primary")
	}
	return nil
}

func (p *Pair) hosts() hosts { return hosts{p.Primary, p.Standby} }

// NewDatabase makes an empty database on whichever server takes writes. Its DSNs
// name both, and lead to that one.
func (p *Pair) NewDatabase(t stage.T) Database {
	t.Helper()
	return p.hosts().newDatabase(t)
}

// CatchUp waits until the standby shows what the primary has committed.
func (p *Pair) CatchUp(t stage.T) {
	t.Helper()
	var written string // a position in the log
	if err := (hosts{p.Primary}).ask(t.Context(), "SELECT pg_current_wal_insert_lsn()::text", &written); err != nil {
		t.Fatalf("ask the primary how far it is: %v", err)
	}
	query := fmt.Sprintf("SELECT pg_last_wal_replay_lsn() >= '%s'", written)
	p.Standby.process.WaitReady(t, patience, func() error {
		var there bool
		if err := (hosts{p.Standby}).ask(t.Context(), query, &there); err != nil {
			return err
		}
		if !there {
			return fmt.Errorf("the standby is not at %s", written)
		}
		return nil
	})
}

// Fail kills the primary's processes at once (SIGKILL) and has the standby take
// its place. What the standby has not got is lost.
func (p *Pair) Fail(t stage.T) {
	t.Helper()
	p.Primary.Kill()
	var promoted bool
	query := fmt.Sprintf("SELECT pg_promote(wait_seconds => %d)", int(patience.Seconds()))
	if err := (hosts{p.Standby}).ask(t.Context(), query, &promoted); err != nil || !promoted {
		t.Fatalf("promote the standby: promoted %v, error %v; it printed:\n%s", promoted, err, p.Standby.process.Tail(4096))
	}
}
